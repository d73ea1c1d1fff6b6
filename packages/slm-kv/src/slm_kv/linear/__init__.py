"""Linear layers whose weights are prepacked for a CPU, in 32, 16 or 8 bits."""
