"""Numbers of parameters that runs would train, from the shapes of the base alone: no weights are loaded."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from slm_data import Documents
from slm_train.arguments import Arguments
from slm_train.errors import TrainError
from slm_train.model.base_model import BaseModel, find_base_model
from slm_train.model.model_building import add_adapter, fit_embeddings
from slm_train.model.parameter_counts import count_parameters
from slm_train.options.model import ModelOptions


def trainable_parameter_counter(arguments: Arguments) -> Callable[[ModelOptions], int]:
    """Return a function that counts what a run on the base of ``arguments`` would train with given options.

    The base is found once. The function raises AdapterError for options that do not fit the base. Layers of the base
    that only a forward pass with weights shows to be unusable are counted; such models are rare.

    Raises:
        TrainError: With ``--from_scratch``, which has no base.
        AdapterError: For a base that cannot be found.
    """
    if arguments.model.from_scratch:
        raise TrainError("--from_scratch trains a new model, which no adapter can be compared with; leave it out")
    base = find_base_model(arguments.model, arguments.model_name, Documents("", "", lambda: iter(())))
    return lambda options: _count(options, base)


def _count(options: ModelOptions, base: BaseModel) -> int:
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(base.config)
        new_rows = fit_embeddings(model, base, options)
    # The adapter itself is small, and faster to create with contents.
    trained = model if options.mode == "baseline" else add_adapter(model, options, new_rows)
    return count_parameters(trained).trainable
