"""Output of a run: progress, logs, final report, dry run and text samples."""
