"""``slm-bench report``: the figures of any number of machines in one page."""
