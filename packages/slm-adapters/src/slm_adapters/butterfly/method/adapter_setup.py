"""Creating butterfly adapters for a model: its target layers, and a block size that divides their widths."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from peft import PeftModel, TaskType
from transformers import PreTrainedModel

from slm_adapters.adaptation.extra_modules import extra_modules
from slm_adapters.adaptation.injection import inject
from slm_adapters.adaptation.layer_faults import candidate_layers
from slm_adapters.base.layer_weights import features
from slm_adapters.butterfly.method.config import ButterflyConfig
from slm_adapters.butterfly.settings import ButterflySettings
from slm_adapters.butterfly.structure import divisors
from slm_adapters.errors import AdapterError
from slm_adapters.targets import ALL_LINEAR, check_targets, default_layers, is_named, shortest_names

MAX_AUTO_BLOCK = 256


def butterfly_config(model: PreTrainedModel, settings: ButterflySettings) -> ButterflyConfig:
    """Return PEFT's configuration for ``model``.

    Default targets too narrow to rotate are left out. Raises AdapterError for a target or a module to save that does
    not exist or cannot be trained.
    """
    names = list(settings.target_modules)
    size = settings.block_size
    # A block is smaller than the layer, and has two coordinates or more.
    narrowest = 4 if size == "auto" else 2
    targets = _rotatable_targets(model, narrowest) if names in ([], [ALL_LINEAR]) else check_targets(model, names)
    block = largest_block(model, targets) if isinstance(size, str) else size
    options = settings.config_options(block) | extra_modules(
        model, settings.modules_to_save, settings.new_rows, targets
    )
    return ButterflyConfig(task_type=TaskType.CAUSAL_LM, target_modules=targets, **options)


def add_butterfly(model: PreTrainedModel, settings: ButterflySettings) -> PeftModel:
    """Return ``model``, frozen, with trainable rotations in float32 that do not change its output before training."""
    return inject(model, butterfly_config(model, settings))


def largest_block(model: PreTrainedModel, targets: Sequence[str]) -> int:
    """Return the largest block, up to 256, that divides the widths of all targets and is smaller than each.

    Raises AdapterError if the widths have no such divisor.
    """
    layers = candidate_layers(model)
    widths = {width for name in layers if is_named(name, targets) for width in features(layers[name]) or ()}
    fitting = [d for d in divisors(gcd(*widths)) if d <= min(MAX_AUTO_BLOCK, min(widths) // 2)]
    if not fitting:
        raise AdapterError(
            f"no block size divides the widths {', '.join(map(str, sorted(widths)))}; rotate the full width instead"
        )
    return fitting[-1]


def _rotatable_targets(model: PreTrainedModel, narrowest: int) -> list[str]:
    """Return the default targets without layers of a smaller width, such as the gate of a shared expert, of width 1."""
    layers = candidate_layers(model)
    usable = default_layers(model)
    rotatable = [name for name in usable if min(features(layers[name]) or (0,)) >= narrowest]
    if not rotatable:
        raise AdapterError(f"this {type(model).__name__} has no layer that is wide enough to rotate; use --mode lora")
    return shortest_names(model, rotatable)
