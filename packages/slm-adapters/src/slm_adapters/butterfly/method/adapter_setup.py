"""Creating butterfly adapters for a model: its target layers, and a block size that divides their widths."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from peft import PeftModel, TaskType, get_peft_model
from transformers import PreTrainedModel

from slm_adapters.base.layer_weights import features
from slm_adapters.butterfly.method.config import ButterflyConfig
from slm_adapters.butterfly.settings import ButterflySettings
from slm_adapters.butterfly.structure import divisors
from slm_adapters.errors import AdapterError
from slm_adapters.targets import check_targets, default_targets, is_named, linear_layers

MAX_AUTO_BLOCK = 256


def butterfly_config(model: PreTrainedModel, settings: ButterflySettings) -> ButterflyConfig:
    """Return PEFT's configuration for ``model``. Raises AdapterError for a target that does not exist."""
    targets = check_targets(model, settings.target_modules or default_targets(model))
    size = settings.block_size
    block = largest_block(model, targets) if isinstance(size, str) else size
    return ButterflyConfig(task_type=TaskType.CAUSAL_LM, target_modules=targets, **settings.config_options(block))


def add_butterfly(model: PreTrainedModel, settings: ButterflySettings) -> PeftModel:
    """Return ``model``, frozen, with trainable rotations in float32 that do not change its output before training."""
    return get_peft_model(model, butterfly_config(model, settings))


def largest_block(model: PreTrainedModel, targets: Sequence[str]) -> int:
    """Return the largest block, up to 256, that divides the widths of all targets and is smaller than each.

    Raises AdapterError if the widths have no such divisor.
    """
    layers = linear_layers(model)
    widths = {width for name in layers if is_named(name, targets) for width in features(layers[name]) or ()}
    fitting = [d for d in divisors(gcd(*widths)) if d <= min(MAX_AUTO_BLOCK, min(widths) // 2)]
    if not fitting:
        raise AdapterError(
            f"no block size divides the widths {', '.join(map(str, sorted(widths)))}; rotate the full width instead"
        )
    return fitting[-1]
