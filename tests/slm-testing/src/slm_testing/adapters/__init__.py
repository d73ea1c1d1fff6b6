"""Helpers for the tests of slm-adapters."""
