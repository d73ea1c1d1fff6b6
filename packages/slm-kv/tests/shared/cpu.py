"""What the CPU at hand can do, for tests of what only some can."""

import pytest

from slm_kv.packed_linear import int8_is_exact
from slm_kv.packing import _dtypes

PACKED_DTYPES = sorted(_dtypes(), key=str)  # bfloat16 is packed where the CPU has AVX-512
needs_int8 = pytest.mark.skipif(not int8_is_exact(), reason="this CPU cuts sums of products of 8 bits (it has no VNNI)")
