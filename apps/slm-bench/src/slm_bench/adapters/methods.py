"""The methods that are compared, PEFT's and ours, as configurations for the model at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from peft import BOFTConfig, HRAConfig, LoraConfig, OFTConfig

from slm_adapters import ButterflySettings, butterfly_config

Configure = Callable[[Any, Sequence[str]], Any]  # for a model and the names of its layers


@dataclass(frozen=True)
class Method:
    """``always``: also without --full. ``decodes``: its decoding is measured."""

    name: str
    configure: Configure
    always: bool = True
    decodes: bool = True


def of_peft(kind: Callable[..., Any], **options: Any) -> Configure:
    """A method of PEFT with these options."""
    return lambda _, targets: kind(task_type="CAUSAL_LM", target_modules=list(targets), **options)


def butterfly(**options: Any) -> Configure:
    """A butterfly with these of ButterflySettings."""
    return lambda model, targets: butterfly_config(model, ButterflySettings(target_modules=targets, **options))


REFERENCE = "LoRA, r=16"
METHODS = (
    Method(REFERENCE, of_peft(LoraConfig, r=16, lora_alpha=32, lora_dropout=0.05), decodes=False),
    Method("LoRA, r=16, no dropout", of_peft(LoraConfig, r=16, lora_alpha=32)),
    Method("PEFT's OFT, blocks of 32", of_peft(OFTConfig, oft_block_size=32)),
    Method("butterfly, narrower side", butterfly()),
    Method("butterfly, input", butterfly(side="input"), always=False),
    Method("butterfly, 6 stages", butterfly(stages=6), always=False, decodes=False),
    Method("butterfly_block, narrower side", butterfly(block_size="auto")),
    Method("butterfly_block, input", butterfly(block_size="auto", side="input"), always=False),
    Method("PEFT's HRA, r=8", of_peft(HRAConfig, r=8), decodes=False),
    Method(
        "PEFT's BOFT, blocks of 4", of_peft(BOFTConfig, boft_block_size=4, boft_n_butterfly_factor=2), decodes=False
    ),
)
