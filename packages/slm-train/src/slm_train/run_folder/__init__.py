"""Files of a run folder besides the weights: run.json and metrics.jsonl."""
