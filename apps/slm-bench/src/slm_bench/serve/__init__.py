"""``slm-bench serve``: slm-serve beside other servers under one load, and what it promises when it is ill-treated."""
