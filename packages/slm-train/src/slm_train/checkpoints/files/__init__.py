"""Files that survive a crash: atomic writes, manifests of folders, and sentences for errors of the disk."""
