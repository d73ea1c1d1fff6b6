"""Writing a LoRA adapter as a GGUF file, without its base."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import PreTrainedModel

from slm_adapters.base.model_folder import ModelFolder
from slm_adapters.errors import AdapterError
from slm_adapters.export.architectures import Architecture
from slm_adapters.export.gguf_writer import TypedTensor, read_gguf, write_gguf
from slm_adapters.export.layouts import Layout
from slm_adapters.export.model_export import check_exportable
from slm_adapters.export.output_folder import file_name
from slm_adapters.export.tensors import GgufTensor, constant, gguf_name, layout_of
from slm_adapters.loading.load import load, read_adapter_folder
from slm_adapters.merging.staged_folder import staged_folder

# Types whose rounding of a LoRA matrix is small; llama.cpp multiplies with quantised ones too, but less exactly.
ADAPTER_DTYPES = {"f32": 1e-5, "f16": 2e-3, "bf16": 2e-2}
MERGE = "export it without --adapter_only, which merges it"
ADAPTER = "default"


@dataclass(frozen=True)
class ExportedAdapter:
    """A GGUF file of an adapter. ``ranks``: the ranks of its layers, as text."""

    file: Path
    base: str
    layers: int
    ranks: str


@dataclass(frozen=True)
class _LoraPair:
    """The matrices of a layer with the scale in ``b``, for llama.cpp, which multiplies them by ``alpha / rank``."""

    name: str
    a: Tensor  # [rank, inputs]
    b: Tensor  # [outputs, rank], in GGUF's order of outputs


def export_adapter(run: str | Path, base: str | None, out: Path, dtype: str) -> ExportedAdapter:
    """Write the LoRA adapter in ``run`` to ``out``.

    Raises AdapterError for other methods and for adapters that change more than LoRA's layers.
    """
    folder = read_adapter_folder(run)
    _check_method(folder, dtype)
    loaded = load(base or run, run, four_bit=False)
    model: Any = loaded.model
    architecture = check_exportable(model.get_base_model().config)
    alpha = float(folder.config["lora_alpha"])
    pairs = list(_lora_pairs(model, architecture, alpha))
    name = file_name(out, dtype)
    with staged_folder(out) as staging:
        _write(staging / name, architecture, pairs, alpha, dtype)
        _verify(staging / name, pairs, dtype)
    ranks = sorted({pair.a.shape[0] for pair in pairs})
    return ExportedAdapter(out / name, loaded.base, len(pairs), " and ".join(map(str, ranks)))


def _check_method(folder: ModelFolder, dtype: str) -> None:
    config = folder.config
    method = str(config.get("peft_type"))
    if method != "LORA":
        raise AdapterError(f"GGUF has adapters of LoRA only, and {folder.path} is one of {method.lower()}; {MERGE}")
    settings = ("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "target_parameters")
    if used := next((name for name in settings if config.get(name)), None):
        raise AdapterError(f"a GGUF adapter cannot have {used}, which {folder.path} uses; {MERGE}")
    if (bias := config.get("bias") or "none") != "none":
        raise AdapterError(f"a GGUF adapter cannot have trained biases (bias={bias!r}); {MERGE}")
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in ("gaussian", "eva", "orthogonal"):
        raise AdapterError(f"the adapter changes the weights of its base (init_lora_weights={init!r}); {MERGE}")
    if dtype not in ADAPTER_DTYPES:
        raise AdapterError(f"an adapter is small and loses much in {dtype}; give --dtype f16, bf16 or f32")


def _lora_pairs(adapted: Any, architecture: Architecture, alpha: float) -> Iterator[_LoraPair]:
    model: PreTrainedModel = adapted.get_base_model()
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if ADAPTER not in layer.lora_A:
            raise AdapterError(f"a GGUF adapter cannot change embeddings or other layers ({name}); {MERGE}")
        if layer.get_base_layer().weight is model.get_input_embeddings().weight:
            raise AdapterError(f"{name} is tied to the embeddings, which a GGUF adapter would change too; {MERGE}")
        a, b = (side[ADAPTER].weight.detach().to("cpu", torch.float32) for side in (layer.lora_A, layer.lora_B))
        scale = layer.scaling[ADAPTER] * a.shape[0] / alpha  # 1, unless the layer has an alpha of its own, or rsLoRA
        layout = layout_of(model, name, architecture)
        yield _LoraPair(
            f"{gguf_name(name, architecture, model.config.num_hidden_layers)}.weight",
            a,
            _outputs(b * scale, layout, architecture, model),
        )


def _outputs(b: Tensor, layout: Layout, architecture: Architecture, model: PreTrainedModel) -> Tensor:
    return layout.write(b, architecture.heads(model.config)) if layout.rows_only else b


def _write(path: Path, architecture: Architecture, pairs: list[_LoraPair], alpha: float, dtype: str) -> None:
    def add_keys(writer: Any) -> None:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)

    tensors = [
        TypedTensor(GgufTensor(f"{pair.name}.lora_{side}", tuple(values.shape), constant(values)), dtype)
        for pair in pairs
        for side, values in (("a", pair.a), ("b", pair.b))
    ]
    write_gguf(path, architecture.gguf, add_keys, tensors)


def _verify(path: Path, pairs: list[_LoraPair], dtype: str) -> None:
    """Compare the updates of the weights that the file gives with those of the adapter."""
    decoded = read_gguf(path)
    for pair in pairs:
        a, b = (torch.tensor(decoded[f"{pair.name}.lora_{side}"]) for side in ("a", "b"))
        expected = pair.b @ pair.a
        error = float((b @ a - expected).norm() / expected.norm().clamp_min(1e-30))
        if error > ADAPTER_DTYPES[dtype]:
            raise AdapterError(f"{pair.name} changes by {error:.2g} in {dtype}; give --dtype f32")
