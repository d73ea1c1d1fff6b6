"""From texts to token ids: the on-disk store, its encoder and a BPE trainer."""
