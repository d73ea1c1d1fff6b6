"""Models and tokenizers that transformers read from GGUF files: checks and corrections of what it leaves out."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import transformers
from tokenizers import processors
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slm_adapters.base.base_lookup import BaseLocation
from slm_adapters.base.gguf.pre_tokenizers import named
from slm_adapters.errors import AdapterError

AS_FOLDER = "give the model as a folder with safetensors"
# Pre-tokenizers that transformers 5.19 takes care of, besides those in our table; "default" is that of old files.
_KNOWN_TO_TRANSFORMERS = ("qwen35", "default")
# Tensors that are factors of the rotary frequencies, which transformers does not read.
_ROTARY_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
# Architectures in whose files transformers takes the head for a copy of the embeddings, or that it fuses or pads.
_UNCOUNTED = ("falcon", "bloom", "t5", "t5encoder")


def gguf_weight_options(base: BaseLocation) -> dict[str, Any]:
    """Return the options of ``from_pretrained`` that make the weights of a GGUF file plain ones; none for others."""
    if base.gguf_file and hasattr(transformers, "GgufConfig"):  # since 5.19, which else keeps the file's blocks
        return {"quantization_config": transformers.GgufConfig(dequantize=True)}
    return {}


def restore_gguf_config(base: BaseLocation, config: Any) -> None:
    """Set the context of a configuration that was read from a GGUF file; does nothing for other bases.

    transformers 5.19 reads that of a GPT-2 as ``n_ctx``, and takes 1,024 positions, whatever the file has.
    """
    if not base.gguf_file:
        return
    fields = _reader(base).fields
    context = fields.get(f"{fields['general.architecture'].contents()}.context_length")
    if context is not None and hasattr(config, "max_position_embeddings"):
        config.max_position_embeddings = int(context.contents())


def check_gguf_model(base: BaseLocation, model: PreTrainedModel) -> None:
    """Make a model that was read from a GGUF file a plain one, which can be cast and saved.

    Does nothing for other bases. Raises AdapterError if transformers left something of the file out.
    """
    if not base.gguf_file:
        return
    _forget_quantization(model)
    restore_gguf_config(base, model.config)
    reader = _reader(base)
    architecture = reader.fields["general.architecture"].contents()
    scaling = reader.fields.get(f"{architecture}.rope.scaling.type")
    kind = scaling.contents() if scaling else "none"
    if kind != "none" or any(tensor.name in _ROTARY_FACTORS for tensor in reader.tensors):
        raise AdapterError(
            f"{base.name} has scaled rotary positions ({kind if kind != 'none' else 'rope_freqs'}), which transformers "
            f"leaves out when it reads GGUF; {AS_FOLDER}"
        )
    in_file = sum(int(tensor.n_elements) for tensor in reader.tensors)
    in_model = sum(weight.numel() for weight in model.parameters())
    if in_file != in_model and architecture not in _UNCOUNTED:
        raise AdapterError(
            f"{base.name} has {in_file:,} weights, of which transformers reads {in_model:,}: it does not know some of "
            f"the file's tensors; {AS_FOLDER}"
        )


def restore_gguf_tokenizer(base: BaseLocation, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a tokenizer that was read from a GGUF file split text and add a start token as the file says.

    Raises AdapterError for a pre-tokenizer that is not known: transformers takes that of GPT-2.
    """
    fields = _reader(base).fields
    values = {
        key: fields[name].contents()
        for key in ("model", "pre", "add_bos_token", "bos_token_id")
        if (name := f"tokenizer.ggml.{key}") in fields
    }
    if values.get("model") == "gpt2" and "pre" in values:
        _restore_pre_tokenizer(base, tokenizer, values["pre"])
    if "add_bos_token" in values and tokenizer.bos_token is not None:
        _restore_start_token(tokenizer, bool(values["add_bos_token"]))


def gguf_precision(base: BaseLocation) -> str | None:
    """Return the precision of a GGUF file, such as "Q4_1 (GGUF)"; None for another base."""
    if not base.gguf_file:
        return None
    import gguf

    field = _reader(base).fields.get("general.file_type")
    known = {int(kind): kind.name for kind in gguf.LlamaFileType}
    name = known.get(int(field.contents()), "unknown") if field else "unknown"
    return f"{name.removeprefix('MOSTLY_').removeprefix('ALL_')} (GGUF)"


def _restore_pre_tokenizer(base: BaseLocation, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    known = named(name)
    if known is None:
        if name in _KNOWN_TO_TRANSFORMERS:
            return
        raise AdapterError(
            f"the tokenizer of {base.name} splits text as {name!r}, which is not known here: the tokens would be "
            f"others than those of training; {AS_FOLDER}"
        )
    fast: Any = tokenizer  # mypy finds the attribute below only with some caches
    backend = fast.backend_tokenizer
    backend.pre_tokenizer = known.build()
    backend.model.ignore_merges = known.ignore_merges


def _restore_start_token(tokenizer: Any, adds: bool) -> None:
    if (tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]) == adds:
        return
    start, token = f"{tokenizer.bos_token} " if adds else "", (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start}$A", pair=f"{start}$A $B", special_tokens=[token] if adds else []
    )


def _forget_quantization(model: Any) -> None:
    model.is_quantized = False
    for owner, name in ((model, "hf_quantizer"), (model, "quantization_method"), (model.config, "quantization_config")):
        if name in vars(owner):
            delattr(owner, name)


def _reader(base: BaseLocation) -> Any:
    path = Path(base.location) / str(base.gguf_file)
    return _cached_reader(path, path.stat().st_mtime_ns)


@cache
def _cached_reader(path: Path, _changed: int) -> Any:
    """Return gguf's reader, whose tensors stay on disk: parsing a large vocabulary takes seconds."""
    import gguf

    return gguf.GGUFReader(path)
