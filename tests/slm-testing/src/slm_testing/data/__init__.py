"""Helpers for the tests of slm-data."""
