"""The commands of ``slm-adapters``."""
