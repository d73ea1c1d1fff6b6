"""``slm-bench adapters``: what an adapter costs and learns, PEFT's methods and ours side by side."""
