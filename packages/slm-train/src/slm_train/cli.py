"""The command ``slm-train``. A user's mistake is one sentence and exit code 2, never a traceback."""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from slm_adapters import end_with_output
from slm_train.errors import TrainError

VERSION_FLAG = "--version"
_LONGEST_SENTENCE = 1600  # characters; longer ones contain a very long value


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``slm-train``.

    Args:
        argv: The words after the command's name; those of the process by default.

    Returns:
        The exit code: 0, 1 for a loss that is not finite, 2 for a user's mistake, or 128 + the number of the signal
        that stopped the run, which is SIGPIPE if nobody reads the output any more.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return end_with_output(lambda: _main(words))


def _main(words: list[str]) -> int:
    had_process_group = _has_process_group()
    try:
        code = _run(words)
    except KeyboardInterrupt:
        print("slm-train: stopped", file=sys.stderr)
        return 130
    except TrainError as error:
        code = _report(error)
    except _sibling_errors() as error:
        code = _report(error)
    if _has_process_group() and not had_process_group:
        # Otherwise the group's threads end with the interpreter, in no fixed order. That sometimes aborted a process
        # that had finished, and torchrun reported the whole run as failed (torch 2.13, gloo).
        sys.modules["torch.distributed"].destroy_process_group()
    return code


def _run(words: list[str]) -> int:
    """Dispatch a command line. Help, version and flag errors come before torch is imported, which takes seconds."""
    _silence_libraries()  # before any import below: libraries read these variables when they are imported
    from slm_train.command_line.help.page import help_page, is_help_requested
    from slm_train.command_line.known_flags import read_flags

    if is_help_requested(words):
        print(help_page(words))
        return 0
    if VERSION_FLAG in words:
        from slm_train import __version__

        print(f"slm-train {__version__}")
        return 0
    if text := _printed(words):
        print(text)
        return 0
    command_line = read_flags(words)  # a mistyped flag or a broken --config is reported here, before the heavy imports
    with _paused_collections(), _without_scikit_learn():
        from slm_train.command_line.parsing import make_arguments
        from slm_train.flow import run

    return run(make_arguments(command_line))


def _printed(words: list[str]) -> str | None:
    """Return the script or the schema that a command line asks for, which are made from the whole parser."""
    names = {word.partition("=")[0] for word in words}
    if "--print_completion" in names:
        from slm_train.command_line.generated.completion import completion

        return completion(words)
    if "--config_schema" in names:
        from slm_train.command_line.generated.config_schema import config_schema_text

        return config_schema_text(words)
    return None


@contextmanager
def _paused_collections() -> Iterator[None]:
    """Without garbage collections, which take a second: each looks at what was imported before, and frees nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _without_scikit_learn() -> Iterator[None]:
    """Without scikit-learn, which transformers imports for assisted generation where it is installed: 1.5 s of CPU."""
    utils: Any = import_module("transformers.utils")
    available = utils.is_sklearn_available
    utils.is_sklearn_available = lambda: False
    try:
        yield
    finally:
        utils.is_sklearn_available = available


def _report(error: Exception) -> int:
    sentence = " ".join(str(error).split())  # one line, whatever a value contains
    if len(sentence) > _LONGEST_SENTENCE:
        sentence = f"{sentence[: _LONGEST_SENTENCE // 2]} ... {sentence[-_LONGEST_SENTENCE // 2 :]}"
    print(f"slm-train: {sentence}", file=sys.stderr)
    return int(getattr(error, "exit_code", 2))


def _has_process_group() -> bool:
    """Return whether this process has joined a process group of torch.distributed. Imports nothing."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _sibling_errors() -> tuple[type[Exception], ...]:
    """Return the errors of other packages that a user can cause. Evaluated only when an exception got this far."""
    from slm_adapters import AdapterError
    from slm_data import DataError

    return (DataError, AdapterError)


def _silence_libraries() -> None:
    """Silence messages of libraries that a user cannot act upon. Their errors are reported by this package."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # else tokenizers warns when a data loader forks
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "critical")
    for bars in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(bars, "1")  # they would disturb our own; a line says what is downloaded
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # bitsandbytes 0.50 logs an error on import when its optional CPU kernel is missing. PEFT 0.21 imports bitsandbytes
    # wherever it is installed, to look up its layer classes, so that cannot be limited to 4-bit runs from here.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
