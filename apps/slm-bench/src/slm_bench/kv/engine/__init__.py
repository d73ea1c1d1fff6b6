"""``slm-bench kv --engine``: slm-kv's engine next to transformers and vLLM."""
