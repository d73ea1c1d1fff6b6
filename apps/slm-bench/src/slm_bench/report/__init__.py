"""``slm-bench report``: result files of any number of machines as one HTML page."""
