"""``slm-bench all``: run every benchmark, then write the report."""
