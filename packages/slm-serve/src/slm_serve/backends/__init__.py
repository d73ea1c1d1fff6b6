"""Text generation behind one protocol: slm-kv's engine and vLLM."""
