"""Comparing an engine with the model's own forward pass, before it serves the model."""
