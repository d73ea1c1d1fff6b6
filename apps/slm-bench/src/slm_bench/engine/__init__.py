"""``slm-bench kv --engine``: the engine beside what people use, on the same requests, in turns."""
