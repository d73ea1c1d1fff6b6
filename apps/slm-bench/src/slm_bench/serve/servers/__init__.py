"""The servers under test: their command lines, processes and CPU cores."""
