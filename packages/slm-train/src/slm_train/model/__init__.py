"""The model that is trained: base, adapters, and parameter counts."""
