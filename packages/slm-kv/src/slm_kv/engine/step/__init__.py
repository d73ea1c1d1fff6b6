"""One step of the engine: its inputs, the run of the model, and the tokens sampled from the logits."""
