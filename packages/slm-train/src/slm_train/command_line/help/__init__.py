"""The help page and its texts."""
