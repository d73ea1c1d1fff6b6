"""Helpers for the tests of slm-serve."""
