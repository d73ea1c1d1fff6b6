"""Grammars: which tokens may come next if an answer must be JSON, match a pattern, or be one of several choices."""
