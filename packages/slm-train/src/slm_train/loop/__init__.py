"""The training loops: steps, losses, gradients, learning rates and evaluation."""
