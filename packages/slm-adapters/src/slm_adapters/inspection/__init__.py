"""Description of a model or adapter folder, as data and as text."""
