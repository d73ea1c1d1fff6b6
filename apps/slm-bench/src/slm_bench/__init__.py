"""Benchmarks that measure the claims of the slm packages next to peers."""

__version__ = "0.9.2"
