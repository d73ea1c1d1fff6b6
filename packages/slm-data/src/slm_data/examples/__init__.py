"""Training examples: texts, conversations and prompt/completion pairs, and which of their characters have a loss."""
