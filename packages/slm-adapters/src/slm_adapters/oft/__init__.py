"""OFT adapters of PEFT, as a peer of the butterfly in comparisons: settings, and creating them for a model."""
