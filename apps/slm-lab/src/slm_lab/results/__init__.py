"""The results of runs: metrics per mode, caveats and recommendations."""
