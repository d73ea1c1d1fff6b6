"""Checks of flags before anything is loaded."""
