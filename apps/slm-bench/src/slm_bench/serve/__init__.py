"""``slm-bench serve``: slm-serve next to other servers, and its guarantees under stress."""
