"""What a run shows: progress, logs, reports, dry runs and text samples."""
