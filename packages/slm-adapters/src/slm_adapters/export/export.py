"""``export_gguf``: a run, an adapter or a model as a file for llama.cpp and Ollama."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_adapters.base.gguf.file import check_gguf_installed
from slm_adapters.errors import AdapterError

if TYPE_CHECKING:
    from slm_adapters.export.adapter_export import ExportedAdapter
    from slm_adapters.export.model_export import ExportedModel

GGUF_DTYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
DEFAULT_DTYPE = "f16"


def export_gguf(
    run: str | Path,
    out: str | Path,
    *,
    dtype: str = DEFAULT_DTYPE,
    base: str | None = None,
    overwrite: bool = False,
    probe: str | None = None,
) -> ExportedModel:
    """Write a model as GGUF with a Modelfile for Ollama, read it back and compare its logits.

    Args:
        run: A run of slm-train, the folder of an adapter or a model, or a base's name. Adapters are merged.
        out: Folder for the files: new, or empty.
        dtype: Type of the matrices: f32, f16, bf16, q8_0 or q4_0.
        base: Base model of an adapter. Default: the one that it records.
        overwrite: Whether to replace an exported model in ``out``.
        probe: Text on which the logits are compared. Default: a built-in one.

    Raises:
        AdapterError: The model cannot be read, or GGUF or llama.cpp cannot express it; nothing is written.
    """
    _check_options(dtype)
    from slm_adapters.export.model_export import check_exportable, export_model
    from slm_adapters.loading.load import load

    target = _checked_folder(out, overwrite)
    check_exportable(_read_config(run, base))  # before the weights are loaded
    loaded = load(base or run, run, merge=True) if base else load(run, merge=True)
    return export_model(loaded, target, dtype, probe)


def export_gguf_adapter(
    run: str | Path, out: str | Path, *, dtype: str = DEFAULT_DTYPE, base: str | None = None, overwrite: bool = False
) -> ExportedAdapter:
    """Write a LoRA adapter as GGUF without its base, for programs that have the base as GGUF.

    Args:
        run: A run of slm-train, or the folder of an adapter.
        out: Folder for the file: new, or empty.
        dtype: Type of the matrices: f32, f16 or bf16.
        base: Base model. Default: the one that the adapter records.
        overwrite: Whether to replace an exported model in ``out``.

    Raises:
        AdapterError: The adapter cannot be read, is not LoRA, or changes more than LoRA's layers; nothing is written.
    """
    _check_options(dtype)
    from slm_adapters.export.adapter_export import export_adapter

    return export_adapter(run, base, _checked_folder(out, overwrite), dtype)


def _check_options(dtype: str) -> None:
    check_gguf_installed("exporting to GGUF")
    if dtype not in GGUF_DTYPES:
        raise AdapterError(f"dtype {dtype!r} is none of {', '.join(GGUF_DTYPES)}; give one of these")


def _checked_folder(out: str | Path, overwrite: bool) -> Path:
    from slm_adapters.export.output_folder import check_output_folder

    folder = Path(out).expanduser()
    check_output_folder(folder, overwrite)
    return folder


def _read_config(run: str | Path, base: str | None) -> Any:
    from transformers import AutoConfig

    from slm_adapters.base.base_lookup import find_base, find_recorded_base, probe_base
    from slm_adapters.base.hub_errors import as_adapter_error
    from slm_adapters.base.model_folder import read_model_folder
    from slm_adapters.loading.load import holds_adapter_config

    path = Path(run).expanduser()
    if base is None and holds_adapter_config(path):
        location = find_recorded_base(read_model_folder(path))
    else:
        location = find_base(base or run)
    location = probe_base(location)
    with as_adapter_error(f"the model {location.name}", location.remedy, location.hub_error):
        return AutoConfig.from_pretrained(
            location.location, trust_remote_code=False, **location.from_pretrained_options
        ).get_text_config()
