"""``slm-lab compare`` and ``slm-lab page``: plan the runs, train them, report the results."""
