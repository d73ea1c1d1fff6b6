"""The flags of ``slm-bench adapters``. No torch here: ``--help`` is instant."""

from __future__ import annotations

import argparse
from typing import Any

from slm_bench.names import of_names
from slm_kv import KVError
from slm_kv import positive_int as positive

MEASUREMENTS = ("training", "decode", "quality")
OF_LEARNING = ("dataset", "steps", "seeds")
PLOT = "outputs/adapters"


def add(commands: Any) -> None:
    """Add ``adapters`` to the commands of a parser."""
    parser = commands.add_parser(
        "adapters",
        help="what an adapter costs in training and decoding, and learns: PEFT's methods and ours",
        description="Take training steps with PEFT's LoRA, OFT, HRA and BOFT and with butterflies on one base, in "
        "turns: step time over LoRA's, bytes kept and held, trainable parameters; then decode a token through the "
        "adapted layers. The exit code is 1 if a butterfly does not begin as the base, a rotation is not orthogonal, "
        "merging changes the logits, or the base's weights changed.",
    )
    flag = parser.add_argument
    flag("--model_path", help="a folder or a name of the hub; the built-in base, with --full distilgpt2's shape")
    flag("--full", action="store_true", help="all methods, more turns, 256 tokens; --quality searches learning rates")
    flag("--quality", action="store_true", help="also what each learns in equal steps, from like many parameters")
    flag("--only", type=of_names(MEASUREMENTS), metavar="NAME,...", help=f"of {','.join(MEASUREMENTS)} only these")
    flag("--four_bit", action="store_true", help="also decode over a base in 4 bits")
    flag("--target_modules", nargs="+", default=[], metavar="NAME", help="layers to adapt; every linear layer")
    flag("--batch_size", type=positive, default=4, help="rows of a training step; %(default)s")
    flag("--tokens", type=positive, help="tokens of a row; 128, with --full 256")
    flag("--rounds", type=positive, help="timed turns after one to warm up; 5, with --full 7")
    flag("--bf16", action="store_true", help="training steps in bfloat16 autocast")
    flag("--device", help="cpu or cuda; cuda where there is one")
    flag("--threads", type=positive, help="threads of the CPU; torch's own choice")
    flag("--dataset", help="texts for --quality; sample, the built-in corpus")
    flag("--steps", type=positive, help="of a run of --quality; 24, with --full 48")
    flag("--seeds", type=positive, help="runs of each method of --quality; 1, with --full 3")
    flag("--json", metavar="FILE", help="write the figures here too, with every sample")
    flag("--plot", metavar="FILE", default=PLOT, help="where to plot, as .png and .svg; %(default)s")


def asked(given: argparse.Namespace) -> tuple[str, ...]:
    """The measurements that a command line wants."""
    wanted = given.only or ("training", "decode")
    return tuple(name for name in MEASUREMENTS if name in wanted or (name == "quality" and given.quality))


def check(given: argparse.Namespace) -> None:
    """Raises KVError for a flag that would be ignored."""
    parts = asked(given)
    learning = [name for name in OF_LEARNING if getattr(given, name) is not None and "quality" not in parts]
    if learning:
        raise KVError(f"--{learning[0]} goes with --quality")
    if given.four_bit and "decode" not in parts:
        raise KVError("--four_bit is about decoding, which --only leaves out")
