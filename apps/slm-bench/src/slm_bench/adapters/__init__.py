"""``slm-bench adapters``: PEFT's methods and butterflies in training, decoding and quality."""
