"""slm-kv's engine and llama.cpp on the same weights, format by format."""
