"""Rows of tokens, and the plan of a token-budget run."""
