"""Reading bytes of files as text: decompression and encodings."""
