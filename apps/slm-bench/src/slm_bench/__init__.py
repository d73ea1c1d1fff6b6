"""Every claim of the project as a command that measures it."""

__version__ = "0.4.2"
