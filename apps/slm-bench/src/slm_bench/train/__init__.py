"""``slm-bench train``: real tokens a second of slm-train's flows beside the plain Trainer and TRL."""
