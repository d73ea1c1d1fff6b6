"""The inference engine: requests, scheduling, running the model, and text output."""
