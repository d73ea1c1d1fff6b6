"""The modes of slm-train side by side, in one page."""

__version__ = "0.2.1"
