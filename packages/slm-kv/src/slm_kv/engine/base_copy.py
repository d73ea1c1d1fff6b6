"""Adding an adapter to an engine that is running: copy the base, attach the adapter to the copy, let the engine use it.

Only the first and the last step touch the engine, and both are short. The model with the adapter is a model of its own,
which shares the base's tensors, so that nothing changes for running requests, or if a step fails.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from slm_kv.engine.adapters import AdaptedModel, Adapters
from slm_kv.errors import InvalidLogits, KVError
from slm_kv.linear.packed_embedding import embedding_weight
from slm_kv.linear.plain_copy import PlainCopy
from slm_kv.peft_models import adapter_names, base_model

# attach(model) returns a PeftModel around ``model``.
Attach = Callable[[PreTrainedModel], PreTrainedModel]
TRIAL_TOKENS = 12


@dataclass(frozen=True)
class NewAdapter:
    """A model with one adapter, ready for ``TextEngine.install_adapter``.

    Attributes:
        name: The name of the adapter.
        adapted: The model.
        digests: Those of the adapter's weights.
        compiled: What ``BaseCopy.prepare`` has returned.
    """

    name: str
    adapted: AdaptedModel
    digests: Mapping[str, bytes]
    compiled: Any = None


@dataclass(frozen=True)
class BaseCopy:
    """A copy of an engine's base model for one adapter, from ``TextEngine.copy_base``.

    Attributes:
        plain: The copy.
        adapters: Those of the engine.
        token_ids: Ordinary tokens for a trial.
        prepare: Lets the engine check the model with the adapter and prepare it. Returns what ``install_adapter``
            needs.
    """

    plain: PlainCopy
    adapters: Adapters
    token_ids: Sequence[int]
    prepare: Callable[[PreTrainedModel, PlainCopy], Any]

    def attach(self, name: str, attach: Attach) -> NewAdapter:
        """Attach an adapter and check that the engine can use it. Slow; may run on any thread.

        Args:
            name: The adapter's name in PEFT.
            attach: Returns a PeftModel around the model that it gets, with this adapter only.

        Raises:
            KVError: the engine cannot use the adapter. Whatever ``attach`` raises is raised too.
        """
        self.plain.restore_weights()
        base = self.plain.model
        trainable = [(parameter, parameter.requires_grad) for parameter in base.parameters()]
        try:
            model = attach(base).eval()
        finally:
            for parameter, requires_grad in trainable:  # PEFT freezes them, and the engine's models share them
                parameter.requires_grad_(requires_grad)
        if adapter_names(model) != (name,):
            raise KVError(f"the model has the adapters {adapter_names(model)}, not {name!r} alone; attach only that")
        _try(base_model(model), self.token_ids)
        adapted = AdaptedModel(model)
        digests = self.adapters.digests_on_base(adapted)
        return NewAdapter(name, adapted, digests, self.prepare(model, self.plain))


@torch.inference_mode()
def _try(model: Any, token_ids: Sequence[int]) -> None:
    """Run a short text. Raises KVError if the model fails, or if its logits are not finite."""
    ids = torch.tensor([list(token_ids[:TRIAL_TOKENS])], device=embedding_weight(model).device)
    options = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    try:
        finite = bool(model(input_ids=ids, **options).logits.isfinite().all())
    except Exception as error:  # whatever the model's own code raises, the user reads one sentence
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise KVError(f"the model fails with this adapter ({reason}); train it again") from error
    if not finite:
        raise InvalidLogits("the model gives NaN or infinite logits with this adapter; train it again")
