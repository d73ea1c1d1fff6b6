"""Run folders of slm-train: finding, reading and listing them."""
