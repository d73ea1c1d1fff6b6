"""Recognising a loaded model by its modules: their names, their types, and what they compute.

Whether what was understood is right, the engine finds out by comparing logits.

Shapes: D width of the residual stream, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from slm_kv.attention.interface import observe
from slm_kv.attention.probe import AttentionProbe
from slm_kv.decode_step.blocks import ModelDescription
from slm_kv.decode_step.recognise_block import recognise_block
from slm_kv.decode_step.recognise_parts import Children, NotRecognised, linear, optional_norm, require
from slm_kv.peft_models import without_adapters

SCALE_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
POSITION = 1  # of the observed token
LAYERS, NORMS = ("layers", "h"), ("norm", "ln_f", "final_layernorm", "final_layer_norm", "final_norm")


def recognise(model: Any, positions: int, token_id: int) -> ModelDescription:
    """Describe a model with paged attention whose linear layers are packed.

    Args:
        model: The model without a PeftModel wrapper.
        positions: The number of positions that a text can have.
        token_id: An ordinary token.

    Raises:
        NotRecognised: a part of it is not understood.
    """
    hooked = [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]
    require(not hooked, "hooks are registered at its modules, which a compiled step would not call")
    body, head = _body_and_head(model)
    children = Children(body)
    embedding, position_embedding = _embeddings(body, children)
    layers, final, rotary = children.take(*LAYERS), children.take(*NORMS), children.take("rotary_emb")
    children.finish()
    require(isinstance(layers, nn.ModuleList) and len(layers), f"{children.name} has no list of layers")
    with _observed(model, layers[0], head) as seen:
        probe = observe(model, positions, token_id)
    require(seen.keys() == {"x", "head", "logits"}, f"{type(model).__name__} calls its parts in an unknown way")
    width = seen["x"].shape[-1]
    with torch.inference_mode():
        scale = _embedding_scale(seen["x"], embedding, position_embedding, token_id)
        logit_scale, logit_cap = _logit_scale(model, seen["head"], seen["logits"])
        blocks = tuple(recognise_block(layer, rotary, probe, index, width) for index, layer in enumerate(layers))
        norm = optional_norm(final, width)
    _require_all_layers(blocks, probe)
    return ModelDescription(
        embedding, position_embedding, scale, width, blocks, norm, linear(head), logit_scale, logit_cap
    )


def _body_and_head(model: Any) -> tuple[Any, Any]:
    head, body = model.get_output_embeddings(), model.base_model
    children = [child for child in model.children() if child not in (head, body)]
    require(head is not None and body is not model and not children, f"{type(model).__name__} has unknown parts")
    if isinstance(getattr(body, "language_model", None), nn.Module):
        return body.language_model, head  # of a model of images and text, which the engine gives text only
    inner = list(body.children())
    return (inner[0] if len(inner) == 1 and not isinstance(inner[0], nn.ModuleList) else body), head


def _embeddings(body: Any, children: Children) -> tuple[Any, Any]:
    embedding = children.take("embed_tokens", "wte", "embed_in")
    require(embedding is not None, f"{children.name} has an unknown embedding")
    return without_adapters(embedding), without_adapters(children.take("wpe", "embed_positions"))


@contextmanager
def _observed(model: Any, first: nn.Module, head: nn.Module) -> Generator[dict[str, Tensor]]:
    """What the first layer and the head get and give while the context is open."""
    seen: dict[str, Tensor] = {}

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen["x"] = (args[0] if args else kwargs["hidden_states"]).clone()

    def keep(name: str, read: Callable[[Any], Tensor]) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            seen[name] = read(output).clone()

        return hook

    hooks = [
        first.register_forward_pre_hook(before, with_kwargs=True),
        head.register_forward_hook(keep("head", lambda output: output)),
        model.register_forward_hook(keep("logits", lambda output: output.logits)),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def position_rows(module: Any, positions: Tensor) -> Tensor:
    """What a module of learned positions adds at ``positions`` [R], [R, D]."""
    offset = getattr(module, "offset", 0)  # OPT's table begins two rows later
    rows: Tensor = nn.functional.embedding(positions + offset, module.weight)
    return rows


def _embedding_scale(x: Tensor, embedding: Any, positions: Any, token_id: int) -> float:
    """The factor between the embedding and the first layer's input, once the position's is subtracted."""
    row = embedding(torch.tensor([[token_id]])).float().flatten()
    expected = x.float().flatten()
    tolerance = SCALE_TOLERANCE[x.dtype]
    if positions is not None:
        require(isinstance(positions, nn.Embedding), f"{type(positions).__name__} has unknown positions")
        expected = expected - position_rows(positions, torch.tensor([POSITION])).float().flatten()
    return _factor(row, expected, tolerance, "the embeddings are changed in an unknown way")


def _logit_scale(model: Any, head: Tensor, logits: Tensor) -> tuple[float, float]:
    """The factor and the soft cap between the head's output and the logits."""
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    tolerance = SCALE_TOLERANCE[head.dtype]
    given, got = head.float().flatten(), logits.float().flatten()
    if cap:
        require(_near(cap * torch.tanh(given / cap), got, tolerance), "the logits are changed in an unknown way")
        return 1.0, float(cap)
    return _factor(given, got, tolerance, "the logits are changed in an unknown way"), 0.0


def _factor(x: Tensor, y: Tensor, tolerance: float, reason: str) -> float:
    factor = float((x @ y) / (x @ x).clamp_min(1e-30))
    require(factor != 0 and _near(factor * x, y, tolerance), reason)  # zeros would agree with anything
    return 1.0 if math.isclose(factor, 1, rel_tol=tolerance) else factor


def _near(x: Tensor, y: Tensor, tolerance: float) -> bool:
    return bool((x - y).norm() <= tolerance * y.norm())


def _require_all_layers(blocks: tuple[Any, ...], probe: AttentionProbe) -> None:
    if len(blocks) != len(probe.layers):
        raise NotRecognised(f"{len(probe.layers)} layers have attention and {len(blocks)} were found")
