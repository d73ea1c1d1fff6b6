"""``slm-bench kv``: what a key-value cache gains, measured."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from slm_bench.bandwidth import memory_bandwidth, weight_bytes
from slm_bench.comparison import Comparison, Row
from slm_bench.envelope import save
from slm_bench.output import console, heading
from slm_bench.sealing import seal
from slm_bench.turns import Ratio, Times, in_turns
from slm_kv import KVError, load, pack, set_threads

ROUNDS = 5
PLOT = "outputs/kv"


@dataclass(frozen=True)
class Measured:
    """One length. Tokens are those of the whole batch; times are medians in seconds; ``ratio`` is on over off: the
    median, least and largest of the turns."""

    new_tokens: int
    tokens_per_second_on: float
    tokens_per_second_off: float
    ratio: Ratio
    first_token_seconds: float
    cache_bytes: int
    same_tokens: bool
    bandwidth_share: float  # of what the machine reads, by weights and cache, each decoded token
    seconds: dict[str, Times]  # of all turns: on, off, and the first token


def run(given: argparse.Namespace) -> int:
    """Load, measure and print. Raises KVError for a user's mistake."""
    disable_progress_bar()
    loaded = load(given.model_path, given.adapter_path, dtype=getattr(torch, given.dtype), device=given.device)
    model, device = loaded.model, loaded.model.device
    ids = torch.tensor([loaded.tokenizer(given.prompt)["input_ids"]] * given.batch_size, device=device)
    counts = given.lengths or [given.max_new_tokens]
    _check(model, ids, counts[-1])
    weights = weight_bytes(model)
    if given.packed:
        pack(model)
    threads = set_threads(model, given.threads)
    rounds = given.rounds or ROUNDS
    speed = memory_bandwidth(device)
    found = [_measure(model, ids, new, rounds, weights, speed) for new in counts]
    setting = {
        "model": given.model_path,
        "adapter": given.adapter_path,
        "dtype": given.dtype,
        "device": str(device),
        "threads": threads,
        "batch_size": given.batch_size,
        "prompt_tokens": ids.shape[1],
        "packed": given.packed,
        "rounds": rounds,
        "memory_bytes_per_second": speed,
    }
    _print(setting, found)
    if given.json:
        samples = {"measured": [asdict(one) for one in found]}
        save(seal("kv", setting, samples, [_compare(found)], device=device), given.json)
    if given.lengths:
        from slm_bench.plots import plot_lengths

        print("plot: " + ", ".join(map(str, plot_lengths(setting, found, Path(given.plot or PLOT)))))
    return 0


def _check(model: Any, ids: Tensor, new: int) -> None:
    positions = getattr(model.config, "max_position_embeddings", None)
    if ids.shape[1] == 0:
        raise KVError("the prompt is empty: give at least one token")
    if positions and ids.shape[1] + new > positions:
        raise KVError(
            f"a prompt of {ids.shape[1]} tokens and {new} new ones exceed the model's {positions} positions; ask for "
            f"at most {max(0, positions - ids.shape[1])} new ones"
        )


def _measure(model: Any, ids: Tensor, new: int, rounds: int, weights: int, speed: float) -> Measured:
    outputs: dict[str, Any] = {}

    def generate(name: str, cached: bool, count: int) -> None:
        outputs[name] = _generate(model, ids, cached, count)

    times = in_turns(
        {
            "on": lambda: generate("on", True, new),
            "off": lambda: generate("off", False, new),
            "first": lambda: generate("first", True, 1),
        },
        rounds,
    )
    cache = outputs["on"].past_key_values
    cache_bytes = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    tokens = new * ids.shape[0]
    read = weights + cache_bytes / 2  # the cache grows from little to all of it
    return Measured(
        new,
        tokens / times["on"].median,
        tokens / times["off"].median,
        times["on"].over(times["off"]),
        times["first"].median,
        cache_bytes,
        torch.equal(outputs["on"].sequences, outputs["off"].sequences),
        read / _decode_seconds(times, new) / speed,
        times,
    )


def _decode_seconds(times: dict[str, Times], new: int) -> float:
    """Seconds of one step of decoding, the prompt's left out."""
    if new == 1:
        return times["on"].median
    return max(times["on"].median - times["first"].median, 1e-9) / (new - 1)


@torch.inference_mode()
def _generate(model: Any, ids: Tensor, cached: bool, new: int) -> Any:
    found = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        use_cache=cached,
        pad_token_id=0,
        return_dict_in_generate=True,
    )
    if ids.device.type == "cuda":
        torch.cuda.synchronize()
    return found


def _compare(found: list[Measured]) -> Comparison:
    return Comparison(
        "generate with the key-value cache",
        tuple(
            Row(
                f"{one.new_tokens} new tokens",
                {"speed / without": one.ratio},
                {
                    "tokens/s": one.tokens_per_second_on,
                    "tokens/s without": one.tokens_per_second_off,
                    "first token, ms": one.first_token_seconds * 1000,
                    "cache, MB": one.cache_bytes / 1e6,
                    "of the memory's bandwidth": f"{one.bandwidth_share:.0%}",
                    "same tokens": "yes" if one.same_tokens else "NO",
                },
            )
            for one in found
        ),
    )


def _print(setting: dict[str, Any], found: list[Measured]) -> None:
    print(
        f"{heading(setting)}, "
        f"batch of {setting['batch_size']}, prompt of {setting['prompt_tokens']} tokens, "
        f"medians of {setting['rounds']} turns\n"
        f"memory is read at {setting['memory_bytes_per_second'] / 1e9:.1f} GB/s"
    )
    table = Table()
    for name in (
        "new tokens",
        "cache on, tokens/s",
        "off, tokens/s",
        "on / off (spread)",
        "first token",
        "cache",
        "bandwidth",
        "same tokens",
    ):
        table.add_column(name, justify="right")
    for one in found:
        table.add_row(
            str(one.new_tokens),
            f"{one.tokens_per_second_on:.1f}",
            f"{one.tokens_per_second_off:.1f}",
            "{:.2f} ({:.2f} to {:.2f})".format(*one.ratio),
            f"{one.first_token_seconds * 1000:.0f} ms",
            f"{one.cache_bytes / 1e6:.2f} MB",
            f"{one.bandwidth_share:.0%}",
            "yes" if one.same_tokens else "NO",
        )
    console().print(table)
