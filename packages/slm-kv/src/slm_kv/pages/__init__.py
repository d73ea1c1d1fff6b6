"""Pages of keys and values: allocation, prefix reuse, storage, and a cache for ``generate``."""
