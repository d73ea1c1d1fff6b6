"""The number of rows up to which the compiled step is used."""

from __future__ import annotations

import numpy as np
import pytest

from slm_kv.compiled.block_weights import BLOCK, BLOCK_WITH_AMX, BlockWeight
from slm_kv.compiled.program import MAX_ROWS
from slm_kv.decode_step.step import MIN_ROWS, fastest_rows
from slm_kv.engine.verification import compiled_step


def weights(outputs: int, inputs: int, width: int) -> list[BlockWeight]:
    return [BlockWeight("bfloat16", np.empty(0, np.uint8), outputs, inputs, width)]


@pytest.mark.parametrize("outputs", [576, 2048, 8192])
def test_without_amx_the_step_is_used_for_all_rows_that_it_can_compute(outputs: int) -> None:
    assert fastest_rows(weights(outputs, outputs, BLOCK)) == MAX_ROWS


def test_with_amx_the_model_itself_is_called_for_fewer_rows_the_larger_its_layers_are() -> None:
    rows = [fastest_rows(weights(width, width, BLOCK_WITH_AMX)) for width in (64, 576, 1024, 1536, 2048, 8192)]
    assert rows[0] == MAX_ROWS
    assert rows[-1] == MIN_ROWS
    assert rows == sorted(rows, reverse=True)
    assert len(set(rows)) > 3


def test_the_rows_with_which_a_step_is_verified_are_computed_by_it() -> None:
    assert compiled_step.FIRST_ROWS + compiled_step.OTHER_TOKENS <= MIN_ROWS
