"""Everything that imports lm-eval."""
