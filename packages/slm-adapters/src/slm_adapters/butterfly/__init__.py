"""Butterfly rotations: exactly orthogonal, by angles alone."""
