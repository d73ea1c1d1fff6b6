"""``slm-bench train``: training throughput of slm-train next to the plain Trainer and TRL."""
