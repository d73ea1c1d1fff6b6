"""Losses: fused with the output layer, for evaluation, auxiliary, and their normalisation over tokens."""
