"""A model's decode step as one compiled call: recognised blocks, the program built of them, and its runs."""
