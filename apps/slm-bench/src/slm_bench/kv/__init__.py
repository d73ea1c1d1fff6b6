"""``slm-bench kv``: the key-value cache, and slm-kv's engine."""
