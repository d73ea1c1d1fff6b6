"""Butterfly rotations: structure, composition, application; the settings of a butterfly adapter."""
