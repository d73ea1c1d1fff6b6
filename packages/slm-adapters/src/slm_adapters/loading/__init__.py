"""Loading a base model with one adapter or several."""
