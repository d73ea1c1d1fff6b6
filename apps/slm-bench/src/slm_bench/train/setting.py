"""What all ways to train have in common: options, texts and models."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from slm_adapters import LoraSettings, add_lora
from slm_bench.adapters.bases import DISTILGPT2
from slm_data import Corpus, Documents, SourceOptions, load_corpus, sample_base, tokenize
from slm_kv import KVError
from slm_train import single_kernel_gelu as one_kernel_gelu

SAMPLE = "sample"
EVAL_SAMPLES = 8  # nobody evaluates; slm-train's rows want some


@dataclass(frozen=True)
class Options:
    """``budget``, ``micro``: tokens; ``batch``, ``trl_batch``: rows; ``vocabulary``: None for the tokenizer's."""

    model: str
    mode: str
    dataset: str
    tokenizer: str
    vocabulary: int | None
    varied: bool
    block_size: int
    samples: int
    budget: int
    micro: int
    batch: int
    trl_batch: int
    steps: int
    rounds: int
    bf16: bool
    threads: int
    full: bool

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise KVError(f"--steps {self.steps} leaves none to count: the first of a run is not")


@dataclass(frozen=True)
class Setting:
    """``documents``: the texts as tokens."""

    options: Options
    tokenizer: PreTrainedTokenizerBase
    corpus: Corpus
    documents: list[list[int]]

    def model(self, seed: int, *, ours: bool, mode: str | None = None) -> Any:
        """A new one with random weights; ``ours`` has slm-train's GELU."""
        torch.manual_seed(seed)
        made: Any = GPT2LMHeadModel(self._config())
        made = one_kernel_gelu(made) if ours else made
        return add_lora(made, LoraSettings(dropout=0.05)) if (mode or self.options.mode) == "lora" else made

    def _config(self) -> Any:
        size = self.options.vocabulary or len(self.tokenizer)
        if self.options.full:
            return GPT2Config(vocab_size=size, n_layer=6)
        return AutoConfig.from_pretrained(sample_base(), vocab_size=size, n_positions=1024, dtype=torch.float32)

    def accumulation(self, tokens_of_micro_batch: float) -> int:
        """Micro-batches of a step that holds about the budget."""
        return max(1, round(self.options.budget / tokens_of_micro_batch))

    def exactly(self) -> Setting:
        """The same in float32."""
        return replace(self, options=replace(self.options, bf16=False))


def options_of(given: argparse.Namespace) -> Options:
    """The command line, its gaps filled in. Raises KVError for one that leaves nothing to measure."""
    full = given.full
    return Options(
        model=DISTILGPT2 if full else "the built-in base's shape, random weights",
        mode=given.mode,
        dataset=given.dataset,
        tokenizer=given.tokenizer,
        vocabulary=given.vocabulary,
        varied=given.varied,
        block_size=given.block_size,
        samples=given.samples or (400 if full else 120),
        budget=given.budget or (2048 if full else 1024),
        micro=given.micro or (1024 if full else 512),
        batch=given.batch,
        trl_batch=given.trl_batch,
        steps=given.steps,
        rounds=given.rounds,
        bf16=given.bf16,
        threads=given.threads or torch.get_num_threads(),
        full=full,
    )


def read(options: Options) -> Setting:
    """Tokenizer and texts. Raises DataError and KVError for those that are not there."""
    tokenizer = _tokenizer(options.tokenizer)
    source = SourceOptions(options.dataset, max_train_samples=options.samples, max_eval_samples=EVAL_SAMPLES)
    corpus = load_corpus(source)
    if options.varied:
        corpus = replace(corpus, train=varied(corpus.train))
    store = tokenize(corpus.train, tokenizer)
    ends = store.lengths.cumsum().tolist()
    documents = [
        store.tokens[end - length : end].tolist() for end, length in zip(ends, store.lengths.tolist(), strict=True)
    ]
    return Setting(options, tokenizer, corpus, documents)


def _tokenizer(name: str) -> Any:
    try:
        found = AutoTokenizer.from_pretrained(str(sample_base()) if name == SAMPLE else name, trust_remote_code=False)
    except (OSError, ValueError) as missing:
        raise KVError(f"--tokenizer {name}: {str(missing).strip().splitlines()[0]}") from missing
    found.pad_token = found.pad_token or found.eos_token
    return found


def varied(texts: Documents) -> Documents:
    """``texts``, each cut to a random share of its words."""

    def cut() -> Iterator[str]:
        draw = random.Random(0)
        for text in texts:
            words = text.split(" ")
            yield " ".join(words[: max(1, round(draw.uniform(0.05, 1) * len(words)))])

    return Documents(f"{texts.name}, cut", f"{texts.identity}, cut", cut)
