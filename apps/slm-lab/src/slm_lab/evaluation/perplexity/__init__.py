"""Sliding-window perplexity of a text."""
