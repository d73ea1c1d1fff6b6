"""Creating OFT adapters (Qiu et al. 2023, arXiv:2306.07280) for a model, with PEFT's implementation.

OFT rotates the input of a layer by dense blocks on the diagonal. Settings other than the block size are PEFT's
defaults: blocks are computed by five terms of a Neumann series, which are orthogonal up to the rest of the series.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import gcd

from peft import OFTConfig, PeftModel, TaskType
from transformers import PreTrainedModel

from slm_adapters.adaptation.extra_modules import extra_modules
from slm_adapters.adaptation.injection import inject
from slm_adapters.base.layer_weights import features
from slm_adapters.butterfly.structure import divisors
from slm_adapters.errors import AdapterError
from slm_adapters.oft.conv1d_layers import use_linear_layers
from slm_adapters.oft.settings import OftSettings
from slm_adapters.peft_trial import accepted_targets, check_accepted
from slm_adapters.targets import ALL_LINEAR, check_targets, default_targets, is_named, linear_layers

MAX_AUTO_BLOCK = 32  # the default of PEFT


def oft_config(model: PreTrainedModel, settings: OftSettings) -> OFTConfig:
    """Return PEFT's configuration for ``model``, whose ``Conv1D`` layers must have been replaced.

    Default targets that PEFT cannot adapt are left out. Raises AdapterError for a target or a module to save that does
    not exist or cannot be trained, and for a block size that does not divide the input width of a target.
    """
    names = list(settings.target_modules)
    trial_config = partial(_config, block_size=1)  # divides every width
    if names in ([], [ALL_LINEAR]):
        targets = accepted_targets(model, default_targets(model), trial_config)
    else:
        targets = check_targets(model, names)
        check_accepted(model, targets, trial_config)
    options = extra_modules(model, settings.modules_to_save, settings.new_rows, targets)
    return _config(targets, _fitting_block_size(model, settings.block_size, targets), **options)


def add_oft(model: PreTrainedModel, settings: OftSettings) -> PeftModel:
    """Return ``model``, frozen, with trainable rotations in float32 that do not change its output before training.

    GPT-2's ``Conv1D`` layers, which PEFT's OFT does not support, are replaced by linear layers with the same weights.
    """
    use_linear_layers(model)
    return inject(model, oft_config(model, settings))


def _fitting_block_size(model: PreTrainedModel, block_size: int | None, targets: Sequence[str]) -> int:
    """Return a block size that divides all input widths. With one that does not, PEFT 0.21 takes another and warns."""
    layers = linear_layers(model)
    widths = {shape[0] for name in layers if is_named(name, targets) and (shape := features(layers[name]))}
    fitting = [size for size in divisors(gcd(*widths)) if size >= 2]
    if block_size is None:
        block_size = max((size for size in fitting if size <= MAX_AUTO_BLOCK), default=0)
    if block_size not in fitting:
        raise AdapterError(
            f"--oft_block_size {block_size} does not divide the input widths {', '.join(map(str, sorted(widths)))}; "
            f"choose from {', '.join(map(str, fitting)) or 'other --target_modules'}"
        )
    return block_size


def _config(targets: Sequence[str], block_size: int, **options: object) -> OFTConfig:
    return OFTConfig(
        task_type=TaskType.CAUSAL_LM, r=0, oft_block_size=block_size, target_modules=list(targets), **options
    )
