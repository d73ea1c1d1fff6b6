"""``slm-paged``: stream a completion from a paged KV cache and report page usage.

A model whose attention cannot use pages is served by transformers' own generation; then the report has no pages.

torch and transformers are imported after the arguments are parsed, so that ``--help`` and errors in flags are instant.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from slm_kv import __version__
from slm_kv.command_line import (
    DefaultsHelpFormatter,
    add_completion,
    add_model_flags,
    positive_int,
    run_command,
    weight_options,
)
from slm_kv.sampling.params import SamplingParams

if TYPE_CHECKING:
    from slm_kv.engine.engine import Engine
    from slm_kv.engine.requests import Handle
    from slm_kv.fallback.engine import TransformersEngine

DEFAULTS = SamplingParams()
SAMPLING_FLAGS = {
    "temperature": "0 always takes the likeliest token",
    "top_k": "sample from the k likeliest tokens; 0 keeps all",
    "top_p": "sample from the smallest set of likeliest tokens with this total probability; 1 keeps all",
    "min_p": "drop tokens less likely than this share of the likeliest token's probability",
    "repetition_penalty": "divides the score of tokens in prompt and completion; 1 is none",
    "presence_penalty": "subtracted once from the score of each token in the completion",
    "frequency_penalty": "subtracted from the score of a token for each occurrence in the completion",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``slm-paged`` and return its exit code. ``argv`` None means the arguments of this process."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when transformers is imported
    return run_command("slm-paged", lambda: run(_parser().parse_args(argv), owns_process=argv is None))


def run(args: argparse.Namespace, *, owns_process: bool = False) -> int:
    """Load the model, stream the completion and print the report.

    Args:
        args: The parsed flags.
        owns_process: Nothing else runs in this process, so that torch and transformers may be imported in part.

    Raises:
        KVError: a user's mistake.
    """
    params = SamplingParams(
        max_new_tokens=args.max_new_tokens,
        seed=args.seed,
        stop=tuple(args.stop),
        ignore_eos=args.ignore_eos,
        **{name: getattr(args, name) for name in SAMPLING_FLAGS},
    )
    options = weight_options(args.weights, args.weights_text, args.dtype)
    if owns_process:
        from slm_kv.lean_imports import import_modelling_code

        import_modelling_code(args.device)
    from transformers.utils.logging import disable_progress_bar

    from slm_kv.chat import chat_ids
    from slm_kv.engine_choice import create_engine
    from slm_kv.loading import load
    from slm_kv.threads import set_threads
    from slm_kv.weight_dtype import DtypeChoice

    disable_progress_bar()
    dtype = DtypeChoice(options.dtype)
    loaded = load(args.model_path, args.adapter_path, dtype=dtype, device=args.device)
    prompt = chat_ids(loaded.tokenizer, args.prompt) if args.chat else args.prompt
    ids = loaded.tokenizer(prompt, verbose=False)["input_ids"] if isinstance(prompt, str) else prompt
    pages = args.max_pages or pages_for(len(ids) + args.max_new_tokens, args.page_size, args.on_full, loaded.model)
    threads = set_threads(loaded.model, args.threads)
    engine = create_engine(
        loaded.model,
        loaded.tokenizer,
        backend=args.backend,
        page_size=args.page_size,
        max_pages=pages,
        max_sequences=1,
        on_full=args.on_full,
        weights=options.weights,
        gate_text=options.gate_text,
        speculate=args.speculate,
        cuda_graphs=args.cuda_graphs,
    )
    try:
        print(f"weights: {f'{options.weights} of ' if options.weights else ''}{dtype.reason}")
        print(f"{engine.summary}, threads: {threads}")
        if engine.quantised:
            print(f"{args.weights}: {engine.quantised.summary} of {args.weights_text or 'the built-in text'}")
        print(flush=True)
        handle = engine.submit(prompt, params)
        print(args.prompt, end="\n\n" if args.chat else "", flush=True)
        statistics = StreamStatistics()
        statistics.print_stream(engine, handle)
        print("\n\n" + "\n".join(statistics.report(engine, handle)))
    finally:
        engine.close(restore=False)
    return 0 if handle.error is None else 2


def pages_for(tokens: int, page_size: int, on_full: str, model: Any) -> int:
    """Return the pages that a prompt and its completion of ``tokens`` together need, within the model's positions.

    A text that goes on in a window keeps within the positions. Otherwise a page more than they need makes them, not the
    pages, the limit.
    """
    needed = max(1, tokens - 1)  # the keys and values of the last token are never read
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or needed
    if needed <= positions or page_size < 1:
        return -(-needed // max(1, page_size))
    return max(1, positions // page_size) + (on_full != "window")


@dataclass
class StreamStatistics:
    """When each token arrived, in seconds, and the largest numbers of pages in use and of slots filled."""

    start: float = field(default_factory=time.perf_counter)
    times: list[float] = field(default_factory=list)  # several equal ones after a step of several tokens
    pages: int = 0
    filled_slots: int = 0

    def print_stream(self, engine: Engine | TransformersEngine, handle: Handle) -> None:
        """Print the text as it arrives; record the time of each token and the page usage."""
        for update in engine.stream(handle):
            self.times += [time.perf_counter() - self.start] * len(update.token_ids)
            print(update.text, end="", flush=True)
            if engine.kind == "paged" and engine.pool.filled_slots > self.filled_slots:
                self.pages, self.filled_slots = engine.pool.used_pages, engine.pool.filled_slots

    def report(self, engine: Engine | TransformersEngine, handle: Handle) -> list[str]:
        """Lines on why the text ended, on speed, and on page usage."""
        lines = [f"finished: {_finish_reason(engine, handle)}"]
        if self.times:
            tokens = len(self.times)
            lines.append(
                f"speed: {tokens} token{'' if tokens == 1 else 's'} in {self.times[-1]:.2f} s "
                f"({_tokens_per_second(self.times):.1f} tokens/s), the first after {self.times[0] * 1000:.0f} ms"
            )
        if handle.speculation.drafted:
            lines.append(f"speculation: {handle.speculation}")
        if engine.kind == "paged" and self.pages:
            limits = engine.context_limits
            slots = self.pages * limits.page_size
            unused = slots - self.filled_slots
            lines.append(
                f"pages: at most {self.pages} of {limits.max_pages} in use; {self.filled_slots} of their {slots} slots "
                f"filled, {unused} unused ({unused / slots:.0%})"
            )
        return lines


def _tokens_per_second(times: list[float]) -> float:
    """The speed after the first token, whose time includes the prompt; for a single token, including the prompt."""
    if times[-1] == times[0]:
        return len(times) / times[0]
    return (len(times) - 1) / (times[-1] - times[0])


def _finish_reason(engine: Engine | TransformersEngine, handle: Handle) -> str:
    """Why the text ended, and what happened at the limit of its context."""
    requested = handle.params.max_new_tokens
    if handle.error:
        return f"error, {handle.error}"
    if handle.finish_reason == "stop":
        cause = "end of text or a stop string"
    elif len(handle.token_ids) < requested:
        cause = f"{_limit(engine)} after {engine.context_limits.tokens} tokens (--on_full stop)"
    else:
        cause = f"all {requested} requested tokens"
    return f"{handle.finish_reason}, {cause}{_describe_window(engine, handle.slides)}"


def _limit(engine: Engine | TransformersEngine) -> str:
    if engine.kind == "paged":
        limits = engine.context_limits
        return "the pages are full" if limits.limited_by_pages else "the model has no more positions"
    by_pages = engine.context_limits.max_tokens <= engine.context_limits.positions
    return "the tokens of --max_pages are used up" if by_pages else "the model has no more positions"


def _describe_window(engine: Engine | TransformersEngine, slides: int) -> str:
    if engine.kind == "transformers" or not slides:
        return ""
    limits = engine.context_limits
    if limits.drops_pages:
        effect = "each time the oldest page but the first was dropped (approximate)"
    else:
        effect = "each time the last half of the context was computed again, as if the text began there"
    return f"; the window moved {'once' if slides == 1 else f'{slides} times'}: {effect}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slm-paged",
        description="Stream a completion from a paged KV cache and report page usage.",
        formatter_class=DefaultsHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"slm-paged {__version__}")
    add_completion(parser, paths=("model_path", "adapter_path", "weights_text"))
    add_model_flags(parser)
    add = parser.add_argument
    add("--prompt", default="Once upon a time", help="the text to continue")
    add("--chat", action="store_true", help="ask the text as a question, with the chat template of the tokenizer")
    add("--max_new_tokens", type=int, default=80, help="the number of tokens to generate at most")
    add(
        "--backend",
        choices=("auto", "paged", "transformers"),
        default="auto",
        help="paged: slm-kv's engine; transformers: transformers' own generation, which serves models without paged "
        "attention; auto: the first of them that can serve the model",
    )
    add("--page_size", type=int, default=64, help="tokens in a page")
    add(
        "--max_pages",
        type=positive_int,
        help="pages of the pool, which is allocated at the start and never grows; without pages, their tokens in total "
        "are the limit of a text; by default what the prompt and --max_new_tokens need, within the model's positions",
    )
    add(
        "--on_full",
        choices=("stop", "window", "error"),
        default="stop",
        help="at the end of the pages or of the model's positions: stop; continue in a window (models with rotary "
        "positions drop the oldest page but the first, which is approximate; others compute the last half again; needs "
        "pages); or fail with an error",
    )
    types = {parameter.name: parameter.type for parameter in fields(SamplingParams)}
    for name, help_text in SAMPLING_FLAGS.items():
        add(f"--{name}", type=int if types[name] == "int" else float, default=getattr(DEFAULTS, name), help=help_text)
    add(
        "--speculate",
        choices=("auto", "off"),
        default="auto",
        help="auto: draft tokens that repeat the prompt or the text so far, and check them in one step while that is "
        "faster; the text is the same (needs pages)",
    )
    add(
        "--cuda_graphs",
        choices=("auto", "off"),
        default="off",
        help="auto: capture decode steps on a CUDA device and replay each with one launch (needs pages)",
    )
    add("--seed", type=int, help="makes sampling repeatable")
    add("--stop", nargs="+", default=[], metavar="TEXT", help="end before one of these texts")
    add("--ignore_eos", action="store_true", help="continue past the end-of-text token")
    return parser


if __name__ == "__main__":
    sys.exit(main())
