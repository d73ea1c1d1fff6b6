"""Base models: lookup by name, loading, weights, quantization, hub errors."""
