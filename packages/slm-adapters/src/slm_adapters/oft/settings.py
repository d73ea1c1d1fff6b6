"""``OftSettings``: the values of an OFT adapter, checked without torch or PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slm_adapters.errors import AdapterError


@dataclass(frozen=True)
class OftSettings:
    """Settings of an OFT adapter, from which ``oft_config`` makes PEFT's ``OFTConfig`` for a model.

    Args:
        block_size: Inputs that a dense block rotates; it must divide the input width of each target. None for the
            largest that does, up to 32, which is PEFT's default.
        target_modules: Names of layers; empty or ``all-linear`` for every linear layer of the blocks.
        modules_to_save: Names of other modules that are trained as a whole and saved with the adapter.
        new_rows: Rows at the end of the embeddings, added by ``resize_embeddings``, that are trained and saved.

    Raises:
        AdapterError: For a block size out of range, with the flag of slm-train.
    """

    block_size: int | None = None
    target_modules: Sequence[str] = ()
    modules_to_save: Sequence[str] = ()
    new_rows: int = 0

    def __post_init__(self) -> None:
        if self.block_size is not None and self.block_size < 2:
            raise AdapterError(f"--oft_block_size {self.block_size} must be at least 2")
