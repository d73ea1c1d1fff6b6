"""Sampling the next token of a sequence from its logits."""
