"""A transformers model as a GGUF file for llama.cpp: the shapes of GPT-2 and Llama, without a tokenizer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from slm_bench.errors import BenchError

ARCHITECTURES = ("gpt2", "llama")  # model types of transformers, and their names in GGUF


def write_gguf(model: Any, path: Path, format: str) -> None:
    """Write the weights of ``model`` with its matrices in ``format``: F32, F16, BF16, Q8_0 or Q4_0.

    With Q4_0, embeddings and head are in Q8_0: llama.cpp's own files also keep them in more bits than the layers.
    Matrices whose rows are no multiple of 32 stay F32. Raises BenchError for other architectures.
    """
    import gguf

    if (fault := find_fault(model)) is not None:
        raise BenchError(fault)
    config = model.config
    writer = gguf.GGUFWriter(path, config.model_type)
    _write_config(writer, config)
    for name, tensor in _named_tensors(model, gguf):
        kind = _format_of(name, tensor, format)
        values = tensor.float().contiguous().numpy()
        quantization = gguf.GGMLQuantizationType[kind]
        data = values if kind == "F32" else gguf.quants.quantize(values, quantization)
        writer.add_tensor(name, data, raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def find_fault(model: Any) -> str | None:
    """Return why ``write_gguf`` cannot write the model; None if it can."""
    config = model.config
    if config.model_type not in ARCHITECTURES:
        return f"slm-bench writes GGUF files of {' and '.join(ARCHITECTURES)}, not of {config.model_type}"
    rotary = getattr(config, "rope_parameters", None) or {}
    if rotary.get("rope_type", "default") != "default":
        return f"slm-bench writes no GGUF files with rotary positions of type {rotary['rope_type']}"
    return None


def _write_config(writer: Any, config: Any) -> None:
    heads = config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim or config.hidden_size // heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def _named_tensors(model: Any, gguf: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield each parameter with its name in GGUF, in GGUF's layout: rows are outputs, rotary pairs adjacent."""
    config = model.config
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == config.model_type)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": getattr(config, "num_key_value_heads", None)}
    for name, parameter in model.named_parameters():  # a tied head is not among them
        tensor = parameter.detach().cpu()
        stem, _, kind = name.rpartition(".")
        layer = stem.rpartition(".")[2]
        if config.model_type == "gpt2" and layer in ("c_attn", "c_proj", "c_fc") and kind == "weight":
            tensor = tensor.T  # Conv1D holds [inputs, outputs]
        if layer in heads:
            tensor = tensor.unflatten(0, (heads[layer], 2, -1)).transpose(1, 2).flatten(0, 2)
        yield f"{names.get_name(stem)}.{kind}", tensor


def _format_of(name: str, tensor: Tensor, format: str) -> str:
    if tensor.dim() < 2 or name.startswith("position_embd"):
        return "F32"
    if format.startswith("Q") and tensor.shape[1] % 32:
        return "F32"
    return "Q8_0" if format == "Q4_0" and name.startswith(("token_embd", "output.")) else format
