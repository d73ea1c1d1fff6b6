"""``slm-paged``: a completion streamed from a paged cache, and what its pages did."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from slm_kv.command_line import add_model_flags, exit_code, int8_text
from slm_kv.sampling.params import SamplingParams

if TYPE_CHECKING:
    from slm_kv.engine.engine import Engine
    from slm_kv.engine.requests import Handle

DEFAULTS = SamplingParams()
SAMPLING = {
    "temperature": "0 takes the likeliest token each time",
    "top_k": "sample from the k likeliest tokens; 0 is all",
    "top_p": "sample from the likeliest tokens that hold this much of the probability",
    "min_p": "leave out tokens less likely than this share of the likeliest",
    "repetition_penalty": "divides the score of tokens of prompt and completion; 1 is none",
    "presence_penalty": "taken off the score of tokens that the completion has, once",
    "frequency_penalty": "taken off the score of tokens that the completion has, for each time",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``slm-paged`` with ``argv`` (the process's own by default); returns the exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    given = _parser().parse_args(argv)
    return exit_code("slm-paged", lambda: run(given))


def run(given: argparse.Namespace) -> int:
    """Load, generate, and print. Raises KVError for a user's mistake."""
    params = SamplingParams(
        max_new_tokens=given.max_new_tokens,
        seed=given.seed,
        stop=tuple(given.stop),
        ignore_eos=given.ignore_eos,
        **{name: getattr(given, name) for name in SAMPLING},
    )
    text = None if given.int8 is None else int8_text(given.int8)
    import torch
    from transformers.utils.logging import disable_progress_bar

    from slm_kv.engine.engine import Engine
    from slm_kv.loading import load
    from slm_kv.threads import set_threads

    disable_progress_bar()  # the text is what there is to see
    loaded = load(given.model_path, given.adapter_path, dtype=getattr(torch, given.dtype), device=given.device)
    threads = set_threads(loaded.model, given.threads)
    with Engine(
        loaded.model,
        loaded.tokenizer,
        page_size=given.page_size,
        max_pages=given.max_pages,
        max_sequences=1,
        on_full=given.on_full,
        int8_text=text,
    ) as engine:
        print(f"{engine.summary}, threads: {threads}")
        if engine.int8:
            print(f"int8: {engine.int8.summary} of {given.int8} (limit 1 %)")
        print(flush=True)
        handle = engine.submit(given.prompt, params)
        print(given.prompt, end="", flush=True)
        print("\n\n" + "\n".join(Watch().follow(engine, handle).report(engine, handle)))
    return 0 if handle.error is None else 2


@dataclass
class Watch:
    """Times of the tokens in seconds, and the most pages and slots that they took."""

    start: float = field(default_factory=time.perf_counter)
    times: list[float] = field(default_factory=list)
    pages: int = 0
    filled: int = 0

    def follow(self, engine: Engine, handle: Handle) -> Watch:
        """Print the text as it comes."""
        for update in engine.stream(handle):
            if update.token_ids:
                self.times.append(time.perf_counter() - self.start)
            print(update.text, end="", flush=True)
            if engine.pool.filled_slots > self.filled:
                self.pages, self.filled = engine.pool.used_pages, engine.pool.filled_slots
        return self

    def report(self, engine: Engine, handle: Handle) -> list[str]:
        """What it cost, a line each."""
        room = engine.room
        lines = [_ending(engine, handle)]
        if self.times:
            lines += [
                f"speed: {len(self.times)} tokens in {self.times[-1]:.2f} s, {_rate(self.times):.1f} tokens/s; "
                f"the first after {self.times[0] * 1000:.0f} ms",
            ]
        if self.pages:
            slots = self.pages * room.page_size
            lines.append(
                f"pages: {self.pages} of {room.max_pages} used at most; {self.filled} of their {slots} slots filled, "
                f"{slots - self.filled} wasted ({1 - self.filled / slots:.0%})"
            )
        return lines


def _rate(times: list[float]) -> float:
    """Tokens a second once the prompt is in; of a single token, that of all."""
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 1 / times[0]


def _ending(engine: Engine, handle: Handle) -> str:
    """Why it ended, and what happened at the limit."""
    room, asked = engine.room, handle.params.max_new_tokens
    if handle.error:
        return f"ended: error, {handle.error}"
    why = "end of text or a stop string" if handle.finish_reason == "stop" else f"all {asked} tokens asked for"
    if handle.finish_reason == "length" and len(handle.token_ids) < asked:
        limit = "pages are full" if room.slots <= room.positions else "model's positions are used up"
        why = f"the {limit} at {min(room.slots, room.positions)} tokens (--on_full stop)"
    ended = f"ended: {handle.finish_reason}, {why}"
    if not handle.slides:
        return ended
    if room.rotary and room.max_pages > 2:
        how = "the oldest page but the first given back each time; approximate"
    else:
        how = "the last half of the room computed anew each time, as if the text began there"
    times = "once" if handle.slides == 1 else f"{handle.slides} times"
    return f"{ended}; the window moved {times}: {how}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slm-paged",
        description="Stream a completion from a paged key-value cache, and say what its pages did.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_model_flags(parser)
    add = parser.add_argument
    add("--prompt", default="Once upon a time", help="the text to complete")
    add("--max_new_tokens", type=int, default=80, help="tokens to generate at most")
    add("--page_size", type=int, default=64, help="tokens a page holds")
    add("--max_pages", type=int, default=6, help="pages of the pool; made at the start, never grown")
    add(
        "--on_full",
        choices=("stop", "window", "error"),
        default="stop",
        help="at the end of the pages or of the model's positions: stop there; go on in a window (rotary models give "
        "back the oldest page but the first, which is approximate; others compute the last half anew); or end in "
        "an error",
    )
    kinds = {one.name: one.type for one in fields(SamplingParams)}
    for name, help_text in SAMPLING.items():
        add(f"--{name}", type=int if kinds[name] == "int" else float, default=getattr(DEFAULTS, name), help=help_text)
    add("--seed", type=int, help="makes the sampling repeatable")
    add("--stop", nargs="+", default=[], metavar="TEXT", help="end where one of these texts comes up")
    add("--ignore_eos", action="store_true", help="go on past the end of the text")
    add(
        "--int8",
        metavar="FILE",
        help="linear layers in 8 bits, on a CPU, if that raises the perplexity of this text by 1 %% at most",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
