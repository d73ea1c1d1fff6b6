"""Preparing a copy of an engine's base with an adapter, before requests can use it."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedModel

from slm_kv.engine.adapters import Adapters
from slm_kv.engine.context_limits import ContextLimits
from slm_kv.engine.prepared_models import PreparedModels
from slm_kv.engine.verification.compiled_adapters import CompiledAdapter, StepCompiler
from slm_kv.engine.verification.compiled_step import reference_logits
from slm_kv.engine.verification.verify import verify
from slm_kv.errors import KVError
from slm_kv.linear.plain_copy import PlainCopy


def prepare_adapter(
    model: PreTrainedModel, copied: PlainCopy, compiler: StepCompiler, limits: ContextLimits
) -> CompiledAdapter:
    """Switch a copy of the base with an adapter to paged attention, verify it, and pack its layers; thread-safe.

    Args:
        model: The copy, in a PeftModel.
        copied: The copy.
        compiler: That of the base.
        limits: Those of the engine.

    Returns:
        What a compiled step computes for the adapter.

    Raises:
        KVError: the adapter cannot be used beside the base.
    """
    prepared, base = PreparedModels([model]), compiler.base
    if compiler.has_step:
        prepared.let_rotated_layers_only_call()
    probe = prepared.install_attention(limits.positions)
    if (probe.shapes, probe.windows, probe.dtype) != (base.probe.shapes, base.probe.windows, base.probe.dtype):
        raise KVError("the adapter changes the shapes or the dtype of keys, so that it cannot share pages")
    adapters = Adapters([model], with_digests=False)
    subject = replace(base, prepared=prepared, model=model, adapters=adapters, adapter=adapters.default, probe=probe)
    expected = reference_logits(subject, shared=True) if compiler.has_step else None
    if verify(prepared, adapters, probe, base.token_ids, limits, shared=True) < limits.positions:
        raise KVError(f"with the adapter, texts in a batch are independent in fewer than {limits.positions} tokens")
    prepared.pack_copy(copied)
    return compiler.compile_adapter(subject, expected)
