"""Operations of compiled programs other than products, and the constructors of their instructions."""

from slm_kv.compiled.operations.activation import activate
from slm_kv.compiled.operations.attention import attend, attention_sums
from slm_kv.compiled.operations.butterfly import butterfly
from slm_kv.compiled.operations.elementwise import add, scale, softcap
from slm_kv.compiled.operations.low_rank import low_rank_down, low_rank_up
from slm_kv.compiled.operations.normalisation import normalise
from slm_kv.compiled.operations.rotary import Pages, Rotary, rotate_and_store

__all__ = [
    "Pages",
    "Rotary",
    "activate",
    "add",
    "attend",
    "attention_sums",
    "butterfly",
    "low_rank_down",
    "low_rank_up",
    "normalise",
    "rotate_and_store",
    "scale",
    "softcap",
]
