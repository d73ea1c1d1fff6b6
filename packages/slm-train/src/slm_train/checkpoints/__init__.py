"""Checkpoints: atomic writes, verification, rotation and resuming."""
