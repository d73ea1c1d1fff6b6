"""Settings that are chosen by a trial before the run."""
