"""Serving models that cannot use pages: requests in turn, each through transformers' own generation."""
