"""The built-in corpus and base model; neither needs a network."""
