"""Prompts: rendering chats, tokenizing, and what fits into the context."""
