"""Helpers for the tests of slm-train."""
