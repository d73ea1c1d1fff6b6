"""The files that a run leaves beside its weights: run.json and metrics.jsonl."""
