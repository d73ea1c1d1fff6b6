"""TensorBoard, trackio and wandb: where they write, and text samples in them."""
