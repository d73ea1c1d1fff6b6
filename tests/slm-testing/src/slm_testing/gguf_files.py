"""Tiny models like Llama, Qwen2 and GPT-2 as GGUF files with a tokenizer, as llama.cpp's converter writes them."""

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

TOKENS = ["<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz", "ab", "Ġ"]
TEMPLATE = "{{ messages[0]['content'] }}"


def write_gguf(model: PreTrainedModel, path: Path, kind: str = "F32", rope_scaling: str = "", **more: Tensor) -> Path:
    """Write ``model`` with its matrices in ``kind`` and ``more`` tensors; its vocabulary is ``TOKENS``.

    For Llama, the rows of q and k have the two halves of a head interleaved.
    """
    import gguf

    config: Any = model.config
    writer = gguf.GGUFWriter(path, config.model_type)
    _write_config(writer, config)
    _write_tokenizer(writer)
    if rope_scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope_scaling))
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == config.model_type)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tensors = {}
    for name, weight in model.named_parameters():
        module, _, parameter = name.rpartition(".")
        tensors[f"{names.get_name(module)}.{parameter}"] = _layout(model, module, weight.detach())
    for name, values in (tensors | more).items():
        plain = kind == "F32" or values.dim() < 2 or values.shape[1] % 32
        quantization = gguf.GGMLQuantizationType["F32" if plain else kind]
        data = values.contiguous().numpy()
        writer.add_tensor(name, data if plain else gguf.quants.quantize(data, quantization), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _layout(model: PreTrainedModel, module: str, weight: Tensor) -> Tensor:
    config: Any = model.config
    if isinstance(model.get_submodule(module), Conv1D) and weight.dim() == 2:
        return weight.t()
    heads = {"q_proj": config.num_attention_heads, "k_proj": getattr(config, "num_key_value_heads", None)}
    kind = module.rpartition(".")[2]
    if config.model_type != "llama" or kind not in heads:
        return weight
    return weight.unflatten(0, (heads[kind], 2, -1)).transpose(1, 2).flatten(0, 2)


def _write_config(writer: Any, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def _write_tokenizer(writer: Any) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(TEMPLATE)
