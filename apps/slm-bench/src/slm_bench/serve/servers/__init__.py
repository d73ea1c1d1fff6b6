"""The servers under test: their command lines and processes."""
