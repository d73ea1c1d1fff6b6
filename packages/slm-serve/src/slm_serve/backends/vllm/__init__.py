"""vLLM as a backend: which weights each engine loads, its arguments, and the conversion of its outputs."""
