"""Model cards: the README.md of a run folder or a merged model, with metadata for the hub."""
