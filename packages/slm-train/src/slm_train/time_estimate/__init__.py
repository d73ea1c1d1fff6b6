"""Estimates of the time that a run takes, from timed steps."""
