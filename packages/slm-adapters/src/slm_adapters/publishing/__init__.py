"""Publishing a folder on the hub: which files, without paths of this machine, with a model card, and the upload."""
