"""Chats: their jobs, and the log-probabilities of their answers."""
