"""Training and validation texts: files, hub datasets, the built-in sample."""
