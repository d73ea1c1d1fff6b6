"""Helpers for the tests of slm-kv."""
