"""What an adapter may be placed on, verified on the loaded model: layers, other modules, and the embeddings' rows."""
