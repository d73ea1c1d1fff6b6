"""The device: defaults, threads and memory."""
