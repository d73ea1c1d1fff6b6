"""``slm-lab doctor``: checks of the machine and of the installed libraries."""
