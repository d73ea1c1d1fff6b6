"""The corpus `harbour`: stories set in harbour towns, in an English that the built-in base has never written."""
