"""Sharding weights, gradients and optimizer state over processes: FSDP2, torch's ``fully_shard``."""
