"""Helpers shared by the tests of the workspace: one subpackage per member, and one for workspace-level tests."""
