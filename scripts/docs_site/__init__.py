"""Builds the pages of the documentation site that are not files in docs/. Used by scripts/docs_hooks.py."""
