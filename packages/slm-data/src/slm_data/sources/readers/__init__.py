"""Readers of the user's own files, by format: from a file to its records."""
