"""What all benchmarks share: arguments, interleaved timing, result files, tables and plots."""
