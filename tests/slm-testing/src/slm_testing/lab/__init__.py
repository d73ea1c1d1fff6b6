"""Helpers for the tests of slm-lab."""
