"""Tokenizers in GGUF: tokens, merges or scores, and special tokens."""
