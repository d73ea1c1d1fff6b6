"""Helpers for the tests of slm-bench."""
