"""The compared methods, PEFT's and butterflies, as configurations for a given model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from peft import BOFTConfig, HRAConfig, LoraConfig, OFTConfig

from slm_adapters import ButterflySettings, butterfly_config

Configure = Callable[[Any, Sequence[str]], Any]  # from a model and the names of its layers to a PEFT configuration


@dataclass(frozen=True)
class Method:
    """An adapter method with its configuration."""

    name: str
    configure: Configure
    always: bool = True  # measured even without --full
    decodes: bool = True  # its decoding is measured as well


def peft_method(config_class: Callable[..., Any], **options: Any) -> Configure:
    """Return a function that configures a method of PEFT with ``options`` of ``config_class``."""
    return lambda _, targets: config_class(task_type="CAUSAL_LM", target_modules=list(targets), **options)


def butterfly(**options: Any) -> Configure:
    """Return a function that configures a butterfly with ``options`` of ButterflySettings."""
    return lambda model, targets: butterfly_config(model, ButterflySettings(target_modules=targets, **options))


# Without dropout, as all other methods. With it, slm-train's default for LoRA, a step is slower.
REFERENCE = "LoRA, r=16"
METHODS = (
    Method(REFERENCE, peft_method(LoraConfig, r=16, lora_alpha=32)),
    Method("LoRA, r=16, dropout 0.05", peft_method(LoraConfig, r=16, lora_alpha=32, lora_dropout=0.05), decodes=False),
    Method("PEFT's OFT, blocks of 32", peft_method(OFTConfig, oft_block_size=32)),
    Method("butterfly, narrower side", butterfly()),
    Method("butterfly, input", butterfly(side="input"), always=False),
    Method("butterfly, 6 stages", butterfly(stages=6), always=False, decodes=False),
    Method("butterfly_block, narrower side", butterfly(block_size="auto")),
    Method("butterfly_block, input", butterfly(block_size="auto", side="input"), always=False),
    Method("PEFT's HRA, r=8", peft_method(HRAConfig, r=8), decodes=False),
    Method(
        "PEFT's BOFT, blocks of 4",
        peft_method(BOFTConfig, boft_block_size=4, boft_n_butterfly_factor=2),
        decodes=False,
    ),
)
