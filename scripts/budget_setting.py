"""What the benchmarks of the token-budget loop have in common: flags, texts, models, and how figures are shown."""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.utils import logging

from slm_adapters import LoraSettings, add_lora
from slm_data import Corpus, Documents, SourceOptions, load_corpus, sample_base, tokenize
from slm_train.modes import one_kernel_gelu

SMALL = {"samples": 200, "budget": 1024, "micro": 512, "batch": 4}
USUAL = {"samples": 400, "budget": 2048, "micro": 1024, "batch": 4}


@dataclass
class Setting:
    """What all contenders have in common."""

    options: argparse.Namespace
    tokenizer: PreTrainedTokenizerBase
    corpus: Corpus
    documents: list[list[int]] = field(default_factory=list)

    def model(self, seed: int, *, ours: bool) -> Any:
        torch.manual_seed(seed)
        shape: dict[str, Any] = {"n_layer": 2, "n_embd": 128, "n_head": 4} if self.options.small else {"n_layer": 6}
        made: Any = GPT2LMHeadModel(GPT2Config(vocab_size=self.options.vocabulary or len(self.tokenizer), **shape))
        made = one_kernel_gelu(made) if ours else made
        return add_lora(made, LoraSettings(dropout=0.05)) if self.options.mode == "lora" else made

    def accumulation(self, tokens_of_micro_batch: float) -> int:
        return max(1, round(self.options.budget / tokens_of_micro_batch))


def read(options: argparse.Namespace) -> Setting:
    location = str(sample_base()) if options.tokenizer == "sample" else options.tokenizer
    tokenizer = AutoTokenizer.from_pretrained(location)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    corpus = load_corpus(SourceOptions(options.dataset, max_train_samples=options.samples, max_eval_samples=8))
    if options.varied:
        corpus = replace(corpus, train=varied(corpus.train))
    store = tokenize(corpus.train, tokenizer)
    ends = store.lengths.cumsum().tolist()
    documents = [
        store.tokens[end - length : end].tolist() for end, length in zip(ends, store.lengths.tolist(), strict=True)
    ]
    return Setting(options, tokenizer, corpus, documents)


def varied(texts: Documents) -> Documents:
    """``texts``, each cut to a random share of its words."""

    def cut() -> Iterator[str]:
        draw = random.Random(0)
        for text in texts:
            words = text.split(" ")
            yield " ".join(words[: max(1, round(draw.uniform(0.05, 1) * len(words)))])

    return Documents(f"{texts.name}, cut", f"{texts.identity}, cut", cut)


def ratios(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(ours, others, strict=True)]


def spread(values: Sequence[float], style: str) -> str:
    return f"{statistics.median(values):{style}} ({min(values):{style}} to {max(values):{style}})"


def settings(text: str | None) -> argparse.Namespace:
    """The command line. ``text``: what a script says of itself."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="sample")
    parser.add_argument("--tokenizer", default="sample", help="a name, a folder, or sample: that of the built-in base")
    parser.add_argument("--vocabulary", type=int, help="of the model; distilgpt2's is 50257. Default: the tokenizer's")
    parser.add_argument("--varied", action="store_true", help="cut texts to a random share of their words")
    parser.add_argument("--mode", choices=("lora", "baseline"), default="lora")
    parser.add_argument("--block_size", type=int, default=256)
    parser.add_argument("--samples", type=int, help="documents. Default: 400")
    parser.add_argument("--budget", type=int, help="predicted tokens of a step. Default: 2048")
    parser.add_argument("--micro", type=int, help="most places of the loop's micro-batches. Default: 1024")
    parser.add_argument("--batch", type=int, help="rows of a fixed micro-batch. Default: 4")
    parser.add_argument(
        "--trl_batch", type=int, default=1, help="packed rows of TRL's micro-batch, which it joins to one"
    )
    parser.add_argument("--steps", type=int, default=3, help="of a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--small", action="store_true", help="a tiny model, to see that all works")
    parser.add_argument("--json", help="write every sample to this file")
    options = parser.parse_args()
    for name, value in (SMALL if options.small else USUAL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def begin(text: str | None) -> Setting:
    """Read the command line and the texts, and say what is measured."""
    options = settings(text)
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    set_seed(0)
    setting = read(options)
    mean = statistics.mean(map(len, setting.documents))
    print(f"{options.mode}, {options.threads} threads, {len(setting.documents)} documents of {mean:.0f} tokens (mean)")
    return setting


def keep(setting: Setting, samples: dict[str, Any]) -> None:
    """Write every sample where ``--json`` says."""
    if setting.options.json:
        Path(setting.options.json).write_text(
            json.dumps({"settings": vars(setting.options), "samples": samples}, indent=1)
        )
