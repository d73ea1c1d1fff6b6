"""What runs achieved: metrics per mode, caveats and recommendations."""
