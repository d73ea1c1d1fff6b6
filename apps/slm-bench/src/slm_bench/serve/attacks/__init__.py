"""Clients that try to hurt a server. They need only the standard library and run in a process of their own."""
