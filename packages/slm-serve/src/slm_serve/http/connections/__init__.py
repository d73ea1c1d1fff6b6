"""Parts of the HTTP protocol: limits of connections, what all connections share, refusals, and clients that stall."""
