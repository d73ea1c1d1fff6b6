"""Datasets of a model hub: names, access, cache and error sentences."""
