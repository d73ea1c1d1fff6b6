"""What needs no network: a corpus that is generated on the spot."""
