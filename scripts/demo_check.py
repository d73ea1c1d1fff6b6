"""Check that the built-in demonstration convinces: runs of `slm-train` without flags, before and after training.

    uv run python scripts/demo_check.py [--modes lora,butterfly:quality] [--seeds 1,2,3] [--output_dir FOLDER]

For each mode and seed it trains the built-in base on the built-in corpus, samples texts for two prompts with ten random
seeds each, and prints how many name the hero and his trait, how two judges rate their English, and the perplexity on
held-out stories. The exit code is 1 if a run misses one of the marks in `Figures.misses`, or a mode the judge's.

A rating is a judge's loss in nats per token in sentences without new parts. The judge is stories260K, a small model of
TinyStories that comes from a hub; `--judge MODEL` names another, `--judge ""` leaves it out. It must rate the English
after training no worse than before, on average over the seeds of a mode: the standard error of one rating, of 20 texts,
is 0.03 to 0.06. The base rates too, but every model finds its own samples at a low temperature
likelier than anything else, even than genuine stories (0.8 against 1.99), so its mark is the latter: a floor against
damage.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slm_adapters import AdapterError, Loaded, load
from slm_train import main as slm_train

MODES = ("baseline", "lora", "qlora", "butterfly", "butterfly:quality", "butterfly_block", "butterfly_block:quality")
PROMPTS = ("Once upon a time", "One day")
SAMPLES = 10  # texts for each prompt
JUDGE = "karpathy/stories260K"

HERO = re.compile(r"\bZip\b")
TRAIT = re.compile(r"\bbubbles?\b")
# What the base has never written about; sentences with such words are not judged.
NEW = re.compile(r"\b(zip|dragon|bubbles?|hooray)\b", re.IGNORECASE)
GENUINE = 1.993  # the base's nats per token on stories of TinyStories that it has not read, from its model card
_SENTENCE = re.compile(r'\S[^.!?]*[.!?]+"?')


@dataclass(frozen=True)
class Judges:
    """The models that rate English; `other` is None where no hub provides it."""

    base: Loaded
    other: Loaded | None

    def rate(self, texts: Sequence[str]) -> Texts:
        other = rate_english(self.other, texts) if self.other else None
        return Texts(tuple(texts), rate_english(self.base, texts), other)


@dataclass(frozen=True)
class Texts:
    """What was sampled from one model, and how the judges rate its English: nats per token outside the new parts."""

    texts: tuple[str, ...]
    by_base: float
    by_other: float | None

    @property
    def with_hero_and_trait(self) -> tuple[int, ...]:
        """The number of texts with hero and trait, for each prompt."""
        return tuple(sum(names_hero_and_trait(text) for text in self._of(prompt)) for prompt in PROMPTS)

    def _of(self, prompt: str) -> Iterator[str]:
        return (text for text in self.texts if text.startswith(prompt))


@dataclass(frozen=True)
class Figures:
    """The result of one run."""

    mode: str
    seed: int
    before: Texts
    after: Texts
    perplexity: tuple[float, float]
    seconds: float

    def misses(self) -> list[str]:
        """Return the marks that the run misses, as sentences."""
        low, high = min(self.after.with_hero_and_trait), max(self.before.with_hero_and_trait)
        marks = {
            f"only {low} of {SAMPLES} texts name hero and trait": low >= 0.8 * SAMPLES,
            f"{high} of {SAMPLES} texts name hero and trait before training": high == 0,
            f"the base rates the English {self.after.by_base:.2f}, genuine stories {GENUINE}": (
                self.after.by_base <= GENUINE
            ),
            f"perplexity falls from {self.perplexity[0]:.2f} to {self.perplexity[1]:.2f} only": (
                self.perplexity[1] <= self.perplexity[0] / 2
            ),
        }
        return [sentence for sentence, reached in marks.items() if not reached]


def misses_of_judge(mode: str, results: Sequence[Figures]) -> list[str]:
    """Return a sentence if the judge rates the English of a mode, on average over its seeds, worse than before."""
    ratings = [(figures.before.by_other, figures.after.by_other) for figures in results if figures.mode == mode]
    rated = [(before, after) for before, after in ratings if before is not None and after is not None]
    if not rated:
        return []
    before, after = (sum(column) / len(rated) for column in zip(*rated, strict=True))
    worse = f"{mode}: the judge rates the English {after:.3f}, before training {before:.3f}"
    return [] if after <= before else [worse]


def names_hero_and_trait(text: str) -> bool:
    return bool(HERO.search(text) and TRAIT.search(text))


@torch.no_grad()
def sample_texts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[str]:
    """Return `SAMPLES` continuations of each prompt, drawn with the settings of slm-train's text samples."""
    generate: Any = model.generate
    texts = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        for seed in range(SAMPLES):
            torch.manual_seed(seed)
            ids = generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=80,
                do_sample=True,
                temperature=0.7,
                top_k=50,
                pad_token_id=tokenizer.eos_token_id,
            )
            texts.append(str(tokenizer.decode(ids[0], skip_special_tokens=True)))
    return texts


def judged_sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of the sentences to judge: complete ones without new parts, after the prompted first."""
    for match in _SENTENCE.finditer(text):
        if match.start() > 0 and not NEW.search(match[0]):
            yield match.start(), match.end()


def rate_english(judge: Loaded, texts: Sequence[str]) -> float:
    """Return the judge's mean negative log likelihood per token of the sentences without new parts, in nats.

    The judge reads each text from its beginning, so what it predicts from new parts counts; the new parts do not.
    """
    losses = [loss for text in texts for loss in _judged_losses(judge, text)]
    return sum(losses) / len(losses) if losses else float("nan")


@torch.no_grad()
def _judged_losses(judge: Loaded, text: str) -> Iterator[float]:
    encoding = judge.tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
    ids, offsets = encoding["input_ids"], encoding["offset_mapping"][0].tolist()
    log_probabilities = judge.model(ids).logits[0, :-1].float().log_softmax(-1)
    losses = -log_probabilities.gather(1, ids[0, 1:, None])[:, 0]
    spans = list(judged_sentences(text))
    for loss, (start, end) in zip(losses.tolist(), offsets[1:], strict=True):
        # A token begins with the space before its word.
        if any(first - 1 <= start and end <= last for first, last in spans) and end > start:
            yield loss


def judged(judges: Judges, sampled: Loaded) -> Texts:
    return judges.rate(sample_texts(sampled.model, sampled.tokenizer, PROMPTS))


def check(mode: str, seed: int, folder: Path, judges: Judges, before: Texts, flags: Sequence[str] = ()) -> Figures:
    """Train in `folder` and return the figures. `mode` may name a preset: `butterfly:quality`."""
    name, _, preset = mode.partition(":")
    words = ["--mode", name, "--seed", str(seed), "--output_dir", str(folder)]
    words += ["--butterfly_preset", preset] if preset else []
    start = time.monotonic()
    code = slm_train([*words, *flags])
    seconds = time.monotonic() - start
    if code:
        raise RuntimeError(f"slm-train {' '.join(words)} ended with exit code {code}")
    evaluation = json.loads((folder / "run.json").read_text())["evaluation"]
    perplexity = evaluation["before"]["perplexity"], evaluation["after"]["perplexity"]
    return Figures(mode, seed, before, judged(judges, load(folder)), perplexity, seconds)


COLUMNS = f"{'mode':<24}{'seed':>5}{'hero and trait':>18}{'judge':>15}{'base':>15}{'perplexity':>17}{'seconds':>9}"


def row(figures: Figures) -> str:
    before, after = figures.before, figures.after
    hero = f"{'+'.join(map(str, before.with_hero_and_trait))} → {'+'.join(map(str, after.with_hero_and_trait))}"
    judge = "" if before.by_other is None or after.by_other is None else f"{before.by_other:.3f} → {after.by_other:.3f}"
    base = f"{before.by_base:.2f} → {after.by_base:.2f}"
    perplexity = f"{figures.perplexity[0]:.2f} → {figures.perplexity[1]:.2f}"
    ratings = f"{judge:>15}{base:>15}"
    return f"{figures.mode:<24}{figures.seed:>5}{hero:>18}{ratings}{perplexity:>17}{figures.seconds:>9.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the built-in demonstration in every mode.")
    parser.add_argument("--modes", default=",".join(MODES), help="modes, with a preset after a colon")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--output_dir", type=Path, help="where to keep the runs and texts.jsonl; default: nowhere")
    parser.add_argument("--judge", default=JUDGE, help="a second judge besides the base; empty for none")
    parser.add_argument("--texts", action="store_true", help="print the texts of each run")
    options, flags = parser.parse_known_args()
    try:
        judges = Judges(load("sample"), load(options.judge) if options.judge else None)
    except AdapterError as error:
        parser.error(f"{error} (--judge '' leaves out the judge)")
    before = judged(judges, judges.base)
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        for mode in options.modes.split(","):
            for seed in map(int, options.seeds.split(",")):
                folder = (options.output_dir or Path(temporary)) / f"{mode.replace(':', '-')}-{seed}"
                results.append(check(mode, seed, folder, judges, before, flags))
                print(f"\n{COLUMNS}\n{row(results[-1])}", flush=True)
                print(*(results[-1].after.texts if options.texts else ()), sep="\n")
    print(f"\n{COLUMNS}", *map(row, results), sep="\n")
    missed = [f"{figures.mode}, seed {figures.seed}: {miss}" for figures in results for miss in figures.misses()]
    missed += [miss for mode in options.modes.split(",") for miss in misses_of_judge(mode, results)]
    print(*missed, sep="\n", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
