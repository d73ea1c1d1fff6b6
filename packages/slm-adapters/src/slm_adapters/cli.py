"""``slm-adapters``: the command line's parser and entry point."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from slm_adapters import __version__
from slm_adapters.closed_output import end_with_output
from slm_adapters.command_line.export_flags import DESCRIPTION as EXPORT
from slm_adapters.command_line.export_flags import EXAMPLES as EXPORT_EXAMPLES
from slm_adapters.command_line.export_flags import add_export_flags
from slm_adapters.command_line.push_flags import DESCRIPTION as PUSH
from slm_adapters.command_line.push_flags import EXAMPLES as PUSH_EXAMPLES
from slm_adapters.command_line.push_flags import add_push_flags
from slm_adapters.completion import add_completion
from slm_adapters.errors import AdapterError

DTYPES = ("float32", "bfloat16", "float16")

DESCRIPTION = "Merge, export as GGUF, inspect or publish adapters of slm-train or PEFT and their models."
MERGE = """\
Merge an adapter into its base, in float32, and save a plain transformers model: config, safetensors and tokenizer,
which any program that reads GPT-2, Llama and the like can load. An adapter trained over 4-bit weights (qlora) is merged
into those weights, dequantized. OUT is then loaded again, and its logits are compared with the adapter's."""
MERGE_EXAMPLES = """\
examples:
  slm-adapters merge outputs/lora outputs/lora-merged
  slm-adapters merge outputs/qlora /models/stories --dtype bfloat16
  slm-adapters merge outputs/lora merged --base ./models/distilgpt2    (the base in a local folder)

exit codes: 0 merged; 1 merged, but the logits differ by more than rounding explains; 2 refused, nothing written"""
INSPECT = """\
Print what a folder of a run, a model or an adapter contains: the method, its base, sizes and, for butterfly adapters,
how far each layer is rotated. Reads the configuration and the weight file; the base model is not loaded."""
INSPECT_EXAMPLES = """\
examples:
  slm-adapters inspect outputs/lora
  slm-adapters inspect outputs/butterfly --json"""


class _Parser(argparse.ArgumentParser):
    """Reports mistakes in one sentence, without argparse's usage."""

    def error(self, message: str) -> NoReturn:
        raise AdapterError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``slm-adapters`` with ``argv`` (default: ``sys.argv``) and return the exit code."""
    return end_with_output(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(argv)
        code: int = options.run_command(options)
    except KeyboardInterrupt:
        print("slm-adapters: interrupted", file=sys.stderr)
        return 130
    except AdapterError as error:
        print(f"slm-adapters: {error}", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="slm-adapters", description=DESCRIPTION, epilog="slm-adapters COMMAND --help shows examples.")
    parser.add_argument("--version", action="version", version=f"slm-adapters {__version__}")
    add_completion(parser)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    layout: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    _add_merge_flags(
        commands.add_parser(
            "merge", help="merge an adapter into its base", description=MERGE, epilog=MERGE_EXAMPLES, **layout
        )
    )
    export = commands.add_parser(
        "export",
        help="write a GGUF file for llama.cpp and Ollama",
        description=EXPORT,
        epilog=EXPORT_EXAMPLES,
        **layout,
    )
    add_export_flags(export)
    export.set_defaults(run_command=_export)
    _add_inspect_flags(
        commands.add_parser(
            "inspect", help="describe a run folder", description=INSPECT, epilog=INSPECT_EXAMPLES, **layout
        )
    )
    push = commands.add_parser(
        "push", help="upload a folder to the Hugging Face hub", description=PUSH, epilog=PUSH_EXAMPLES, **layout
    )
    add_push_flags(push)
    push.set_defaults(run_command=_push)
    return parser


def _add_merge_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", metavar="RUN", type=Path, help="folder of a slm-train run or of a PEFT adapter")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the merged model: new, or empty")
    parser.add_argument("--base", metavar="B", help="base model: a folder or a name. Default: the one that RUN records")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="dtype of the saved weights. Default: %(default)s"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is in OUT")
    parser.add_argument("--probe", metavar="TEXT", help="compare the models on this text. Default: a built-in one")
    parser.set_defaults(run_command=_merge)


def _add_inspect_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", type=Path, help="folder of a run, a model or an adapter")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run_command=_inspect)


# The commands are imported after parsing, so that help and errors are fast: they import torch, transformers and PEFT.


def _merge(options: argparse.Namespace) -> int:
    from slm_adapters.command_line.merge import run_merge

    return run_merge(options)


def _export(options: argparse.Namespace) -> int:
    from slm_adapters.command_line.export import run_export

    return run_export(options)


def _inspect(options: argparse.Namespace) -> int:
    from slm_adapters.command_line.inspect import run_inspect

    return run_inspect(options)


def _push(options: argparse.Namespace) -> int:
    from slm_adapters.command_line.push import run_push

    return run_push(options)


if __name__ == "__main__":
    sys.exit(main())
