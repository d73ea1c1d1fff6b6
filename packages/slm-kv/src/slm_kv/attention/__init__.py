"""Attention over pages: a plain reference, compiled code for a CPU, and the doors into transformers."""
