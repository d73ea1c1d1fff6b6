"""GGUF files: finding, parsing, and the pre-tokenizers that they name."""
