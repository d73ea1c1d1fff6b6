"""LoRA adapters: settings, and creating them for a model."""
