"""CPU kernels compiled by numba. Nothing outside this folder imports numba or llvmlite."""
