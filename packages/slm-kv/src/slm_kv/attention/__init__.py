"""Attention over pages: transformers' attention interface, a plain reference, and a backend for each device."""
