"""LoRA settings that fit the model at hand."""
