"""Reports of a comparison: HTML page with charts, terminal table, JSON file."""
