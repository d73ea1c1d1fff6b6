"""The corpus `sample`: stories about a little blue dragon, in the English that the built-in base writes."""
