"""``--find_learning_rate``: trials of several rates from the same start."""
