"""Writing a model as a GGUF file with a Modelfile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from slm_adapters.base.vocabulary import embedding_rows
from slm_adapters.export.architectures import Architecture, find_architecture
from slm_adapters.export.config_checks import check_config, ignored_window
from slm_adapters.export.gguf_writer import TypedTensor, write_gguf
from slm_adapters.export.hyperparameters import write_hyperparameters
from slm_adapters.export.ollama.modelfile import MODELFILE, render_modelfile
from slm_adapters.export.output_folder import file_name, model_name
from slm_adapters.export.rotary import check_rotary
from slm_adapters.export.tensor_types import DTYPES, tensor_type
from slm_adapters.export.tensors import list_tensors
from slm_adapters.export.tokens.special_tokens import SpecialTokens, read_special_tokens, write_special_tokens
from slm_adapters.export.tokens.vocabulary import Vocabulary, read_vocabulary, write_vocabulary
from slm_adapters.export.verification import Verification, verify_file
from slm_adapters.loading.load import Loaded
from slm_adapters.merging.logit_comparison import PROBE_TEXT, probe_ids
from slm_adapters.merging.staged_folder import staged_folder


@dataclass(frozen=True)
class ExportedModel:
    """A GGUF file, its Modelfile, its comparison with the model, and sentences about what llama.cpp does otherwise."""

    file: Path
    modelfile: Path
    verification: Verification
    notes: list[str]
    is_chat: bool


def check_exportable(config: Any) -> Architecture:
    """Return how a model with ``config`` is written. Raises AdapterError if llama.cpp does not compute it."""
    architecture = find_architecture(config)
    check_config(config, architecture)
    check_rotary(config, architecture)
    return architecture


def export_model(loaded: Loaded, out: Path, dtype: str, probe: str | None = None) -> ExportedModel:
    """Write a plain model in float32 to ``out``, read the file back and compare it. The model may be changed.

    Raises AdapterError, with nothing written, for what GGUF or llama.cpp cannot express.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    architecture = check_exportable(model.config)
    input_ids = probe_ids(loaded, PROBE_TEXT if probe is None else probe)
    vocabulary = read_vocabulary(tokenizer, embedding_rows(model))
    special = read_special_tokens(tokenizer, model)
    tensors = list_tensors(model, architecture)
    typed = [TypedTensor(tensor, tensor_type(tensor.name, tensor.shape, dtype)) for tensor in tensors]

    def add_keys(writer: Any) -> None:
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(model_name(out, _strips_after_specials(tokenizer)))
        writer.add_file_type(gguf.LlamaFileType[DTYPES[dtype]])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        write_hyperparameters(writer, model.config, architecture)
        write_vocabulary(writer, vocabulary)
        write_special_tokens(writer, special)
        if isinstance(tokenizer.chat_template, str):
            writer.add_chat_template(tokenizer.chat_template)

    name = file_name(out, dtype)
    with staged_folder(out) as staging:
        write_gguf(staging / name, architecture.gguf, add_keys, typed)
        (staging / MODELFILE).write_text(render_modelfile(name, tokenizer, special), encoding="utf-8")
    verification = verify_file(out / name, loaded, architecture, input_ids)
    notes = _notes(model.config, architecture, vocabulary, special)
    return ExportedModel(out / name, out / MODELFILE, verification, notes, bool(tokenizer.chat_template))


def _strips_after_specials(tokenizer: Any) -> bool:
    return any(token.rstrip for token in tokenizer.added_tokens_decoder.values() if token.special)


def _notes(config: Any, architecture: Architecture, vocabulary: Vocabulary, special: SpecialTokens) -> list[str]:
    notes = vocabulary.notes + special.notes
    if (window := ignored_window(config, architecture)) is not None:
        notes.append(
            f"llama.cpp has no sliding window for this architecture, so the context is the window: {window:,} tokens"
        )
    if "gelu" in (getattr(config, "hidden_act", None), getattr(config, "activation_function", None)):
        notes.append("llama.cpp computes GELU by its tanh approximation, this model the exact one")
    if getattr(config, "rope_parameters", None) and config.rope_parameters.get("rope_type") == "longrope":
        notes.append(
            "llama.cpp chooses longrope's factors by the size of the context, transformers by the text's length"
        )
    return notes
