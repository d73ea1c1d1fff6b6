"""Helpers for the workspace-level tests: README commands, environments, servers."""
