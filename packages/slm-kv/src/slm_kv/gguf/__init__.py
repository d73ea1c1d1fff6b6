"""Models from GGUF files: quantised weights are used as the file's own blocks, not widened first."""
