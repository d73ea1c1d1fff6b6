"""Weights in blocks of 8 and 4 bits: rounding them, widening them, and rounding the inputs of their products."""
