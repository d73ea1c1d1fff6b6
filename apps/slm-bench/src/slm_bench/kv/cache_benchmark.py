"""KV cache benchmark: ``generate`` with the cache on and off."""

import argparse
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from slm_bench.errors import BenchError
from slm_bench.harness.comparison import Comparison, Figure, Row
from slm_bench.harness.interleaved_timing import Ratio, Times, time_interleaved
from slm_bench.harness.provenance import new_result
from slm_bench.harness.result_file import Findings, ResultFile
from slm_bench.kv.arguments import check_flags
from slm_bench.kv.bandwidth import memory_bandwidth, tensor_bytes, weight_bytes
from slm_kv import DtypeChoice, load, pack, set_threads

ROUNDS = 5


@dataclass(frozen=True)
class CacheMeasurement:
    """Figures for one number of new tokens; field names are JSON keys. Tokens are counted over the whole batch."""

    new_tokens: int
    tokens_per_second_on: float
    tokens_per_second_off: float
    ratio: Ratio  # speed with the cache over speed without
    first_token_seconds: float
    cache_bytes: int
    same_tokens: bool
    bandwidth_share: float  # bytes of weights and cache read per second, relative to the memory bandwidth
    seconds: dict[str, Times]  # of the contenders on, off, and first: time to the first token


def measure(arguments: argparse.Namespace) -> ResultFile:
    """Load the model and measure all lengths. Raises BenchError if a length exceeds the model's positions."""
    check_flags(arguments)
    disable_progress_bar()
    dtype = DtypeChoice(arguments.dtype)
    loaded = load(arguments.model_path, arguments.adapter_path, dtype=dtype, device=arguments.device)
    model, device = loaded.model, loaded.model.device
    input_ids = torch.tensor([loaded.tokenizer(arguments.prompt)["input_ids"]] * arguments.batch_size, device=device)
    lengths = arguments.lengths or [arguments.max_new_tokens]
    _check_positions(model, input_ids, lengths[-1])
    weights = weight_bytes(model)  # before packing, which replaces the linear layers
    if arguments.packed:
        pack(model, weights=arguments.weight_options.weights)
    settings = {
        "model": arguments.model_path,
        "adapter": arguments.adapter_path,
        "dtype": dtype.name,
        "weights": arguments.weights,
        "device": str(device),
        "threads": set_threads(model, arguments.threads),
        "batch_size": arguments.batch_size,
        "prompt_tokens": input_ids.shape[1],
        "packed": arguments.packed,
        "rounds": arguments.rounds or ROUNDS,
        "memory_bytes_per_second": memory_bandwidth(device),
    }
    bandwidth = settings["memory_bytes_per_second"]
    measured = [_measure(model, input_ids, new, settings["rounds"], weights, bandwidth) for new in lengths]
    return new_result("kv", settings, Findings({"measured": measured}, [_compare(measured, bandwidth)]), device)


def _check_positions(model: Any, input_ids: Tensor, new: int) -> None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    prompt = input_ids.shape[1]
    if prompt == 0:
        raise BenchError("the prompt is empty: give at least one token")
    if positions and prompt + new > positions:
        raise BenchError(
            f"a prompt of {prompt} tokens and {new} new ones exceed the model's {positions} positions; ask for at "
            f"most {max(0, positions - prompt)} new ones"
        )


def _measure(model: Any, input_ids: Tensor, new: int, rounds: int, weights: int, bandwidth: float) -> CacheMeasurement:
    contenders = {"on": (True, new), "off": (False, new), "first": (True, 1)}
    outputs: dict[str, Any] = {}

    def generate(name: str) -> None:
        outputs[name] = _generate(model, input_ids, *contenders[name])

    times = time_interleaved({name: partial(generate, name) for name in contenders}, rounds)
    cache_bytes = tensor_bytes(outputs["on"].past_key_values)
    # The cache grows from almost nothing to its full size, so an average step reads half of it.
    bytes_per_token = weights + cache_bytes / 2
    tokens, seconds = new * input_ids.shape[0], times["on"].median
    # Without the prefill, except for a single token, which is all prefill.
    decode_seconds = seconds if new == 1 else max(seconds - times["first"].median, 1e-9) / (new - 1)
    return CacheMeasurement(
        new,
        tokens / seconds,
        tokens / times["off"].median,
        times["on"].speed_over(times["off"]),
        times["first"].median,
        cache_bytes,
        torch.equal(outputs["on"].sequences, outputs["off"].sequences),
        bytes_per_token / decode_seconds / bandwidth,
        times,
    )


@torch.inference_mode()
def _generate(model: Any, input_ids: Tensor, use_cache: bool, new: int) -> Any:
    output = model.generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        use_cache=use_cache,
        pad_token_id=0,
        return_dict_in_generate=True,
    )
    if input_ids.device.type == "cuda":
        torch.cuda.synchronize()
    return output


def _compare(measured: list[CacheMeasurement], bandwidth: float) -> Comparison:
    rows = []
    for length in measured:
        figures: dict[str, Figure] = {
            "tokens/s": length.tokens_per_second_on,
            "tokens/s without": length.tokens_per_second_off,
            "first token, ms": length.first_token_seconds * 1000,
            "cache, MB": length.cache_bytes / 1e6,
            "of the memory's bandwidth": f"{length.bandwidth_share:.0%}",
            "same tokens": "yes" if length.same_tokens else "NO",
        }
        rows.append(Row(f"{length.new_tokens} new tokens", {"speed / without": length.ratio}, figures))
    note = f"this machine reads memory at {bandwidth / 1e9:.1f} GB/s"
    return Comparison("generate with the key-value cache", tuple(rows), note)
