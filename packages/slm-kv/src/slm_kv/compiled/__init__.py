"""CPU kernels compiled by numba, and the memory layouts they read. Nothing outside this folder imports numba."""
