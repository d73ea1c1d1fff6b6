"""Tool calls: how a model writes them, the grammar that keeps them valid, and reading them from its text."""
