"""Flags of ``slm-bench train``."""

from typing import Any

from slm_bench.harness.arguments import HARBOUR, SAMPLE, new_command
from slm_kv import positive_int

MEASUREMENTS = ("exactness", "budget", "packed", "overhead")


def add_train(commands: Any) -> None:
    """Add ``train`` to the commands of a parser."""
    parser = new_command(
        commands,
        "train",
        help="training throughput of slm-train's flows, next to the plain Trainer and TRL",
        description="Train one model on the same texts with the token-budget loop (packed and not), slm-train's "
        "Trainer flow, Hugging Face's plain Trainer, and TRL if installed, in alternating rounds (budget); with "
        "slm-train's defaults and the Trainer's (packed); and measure the overhead of the loop and its checkpoints "
        "(overhead). The exit code is 1 if the fused loss, packed rows, gradients over micro-batches or token counts "
        "are wrong (exactness).",
    )
    flag = parser.flag
    parser.only(MEASUREMENTS)
    flag("full", action="store_true", help="distilgpt2's shape and more texts; default: the built-in base's shape")
    flag("dataset", default=HARBOUR, help="name of a dataset, as in slm-train")
    flag("tokenizer", default=SAMPLE, help="a name on the hub, a folder, or sample: that of the built-in base")
    flag("vocabulary", type=positive_int, help="vocabulary size of the model; default: the tokenizer's")
    flag("varied", action="store_true", help="cut each text to a random share of its words, so that lengths vary more")
    flag("mode", choices=("lora", "baseline"), default="lora", help="mode of budget and overhead")
    flag("block_size", type=positive_int, default=256, help="tokens of a row")
    flag("samples", type=positive_int, help="number of documents; default: 120, with --full 400")
    flag("budget", type=positive_int, help="predicted tokens of a step; default: 1024, with --full 2048")
    flag("micro", type=positive_int, help="maximum tokens of the loop's micro-batches; default: 512, with --full 1024")
    flag("batch", type=positive_int, default=4, help="rows of a fixed micro-batch")
    flag("trl_batch", type=positive_int, default=1, help="packed rows of TRL's micro-batch, which it joins to one")
    flag("steps", type=positive_int, default=3, help="steps of a run; the first does not count")
    flag("rounds", default=3, help="runs of each contender")
    for name in ("bf16", "threads", "json"):
        flag(name)
    flag("plot", default="outputs/train")
