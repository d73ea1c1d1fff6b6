"""The flags of ``slm-bench train``. No torch here: ``--help`` is instant."""

from __future__ import annotations

from typing import Any

from slm_bench.names import of_names
from slm_kv import positive_int as positive

MEASUREMENTS = ("exactness", "budget", "packed", "overhead")
PLOT = "outputs/train"


def add(commands: Any) -> None:
    """Add ``train`` to the commands of a parser."""
    parser = commands.add_parser(
        "train",
        help="real tokens a second of slm-train's flows, beside the plain Trainer and TRL",
        description="Train one model on the same texts by the token-budget loop, packed and not, by slm-train's "
        "Trainer flow, by Hugging Face's Trainer as it is, and by TRL where it is installed, in turns (budget); by "
        "slm-train's defaults and the Trainer's (packed); and see what the loop and its checkpoints cost (overhead). "
        "The exit code is 1 if the fused loss, packed rows, gradients over micro-batches or the count of tokens "
        "are not what they are said to be (exactness).",
    )
    flag = parser.add_argument
    flag("--only", type=of_names(MEASUREMENTS), metavar="NAME,...", help=f"of {','.join(MEASUREMENTS)} only these")
    flag("--full", action="store_true", help="distilgpt2's shape and more texts; else the built-in base's shape")
    flag("--dataset", default="sample", help="texts: a name as slm-train takes it; %(default)s")
    flag("--tokenizer", default="sample", help="a name, a folder, or sample: that of the built-in base")
    flag("--vocabulary", type=positive, help="of the model; the tokenizer's. distilgpt2's is 50257")
    flag("--varied", action="store_true", help="cut each text to a random share of its words: lengths differ more")
    flag("--mode", choices=("lora", "baseline"), default="lora", help="of budget and overhead; %(default)s")
    flag("--block_size", type=positive, default=256, help="tokens of a row; %(default)s")
    flag("--samples", type=positive, help="documents; 120, with --full 400")
    flag("--budget", type=positive, help="predicted tokens of a step; 1024, with --full 2048")
    flag("--micro", type=positive, help="most places of the loop's micro-batches; 512, with --full 1024")
    flag("--batch", type=positive, default=4, help="rows of a fixed micro-batch; %(default)s")
    flag("--trl_batch", type=positive, default=1, help="packed rows of TRL's micro-batch, joined to one; %(default)s")
    flag("--steps", type=positive, default=3, help="of a run, the first of which is not counted; %(default)s")
    flag("--rounds", type=positive, default=3, help="runs of each way; %(default)s")
    flag("--bf16", action="store_true", help="bfloat16 autocast in budget and overhead")
    flag("--threads", type=positive, help="threads of the CPU; torch's own choice")
    flag("--json", metavar="FILE", help="write the figures here too, with every sample")
    flag("--plot", metavar="FILE", default=PLOT, help="where to plot, as .png and .svg; %(default)s")
