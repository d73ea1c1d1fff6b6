"""Base models: lookup by name, folders, loading, weights, quantization, hub errors."""
