"""Inputs that all contenders share: options, texts and freshly initialised models."""

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from slm_adapters import LoraSettings, add_lora
from slm_bench.errors import BenchError
from slm_bench.harness.arguments import DISTILGPT2_SHAPE, SAMPLE, settings_from
from slm_data import Corpus, Documents, SourceOptions, load_corpus, sample_base, tokenize
from slm_train import single_kernel_gelu

EVAL_SAMPLES = 8  # slm-train requires validation texts, although nothing is evaluated here


@dataclass(frozen=True)
class Options:
    """Settings of one run, named like the flags; field names are JSON keys. ``budget`` and ``micro`` are tokens."""

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
            raise BenchError(f"--steps {self.steps} leaves none to count, since the first does not; give at least 2")


def options_from(arguments: argparse.Namespace) -> Options:
    """Return the options of a command line. Raises BenchError if they leave nothing to measure."""
    model = DISTILGPT2_SHAPE if arguments.full else "the built-in base's shape, random weights"
    samples, budget, micro = (400, 2048, 1024) if arguments.full else (120, 1024, 512)
    sizes = {"samples": samples, "budget": budget, "micro": micro}
    return settings_from(Options, arguments, model=model, threads=torch.get_num_threads(), **sizes)


@dataclass(frozen=True)
class Inputs:
    """Texts and tokenizer of all contenders, and their models. ``documents``: the training texts as token ids."""

    options: Options
    tokenizer: PreTrainedTokenizerBase
    corpus: Corpus
    documents: list[list[int]]

    def new_model(self, seed: int, *, ours: bool, mode: str | None = None) -> Any:
        """Return a model with random weights; ``ours`` has slm-train's single-kernel GELU."""
        torch.manual_seed(seed)
        model: Any = GPT2LMHeadModel(self._config())
        model = single_kernel_gelu(model) if ours else model
        return add_lora(model, LoraSettings(dropout=0.05)) if (mode or self.options.mode) == "lora" else model

    def _config(self) -> Any:
        size = self.options.vocabulary or len(self.tokenizer)
        if self.options.full:
            return GPT2Config(vocab_size=size, n_layer=6)
        return AutoConfig.from_pretrained(sample_base(), vocab_size=size, n_positions=1024, dtype=torch.float32)

    def accumulation(self, micro_batch_tokens: float) -> int:
        """Return the number of micro-batches whose sum is closest to the token budget of a step."""
        return max(1, round(self.options.budget / micro_batch_tokens))


def read_inputs(options: Options) -> Inputs:
    """Load tokenizer and texts. Raises DataError or BenchError if they do not exist."""
    tokenizer = _load_tokenizer(options.tokenizer)
    source = SourceOptions(options.dataset, max_train_samples=options.samples, max_eval_samples=EVAL_SAMPLES)
    corpus = load_corpus(source)
    if options.varied:
        corpus = replace(corpus, train=cut_randomly(corpus.train))
    store = tokenize(corpus.train, tokenizer)
    tokens = iter(store.tokens.tolist())
    documents = [list(islice(tokens, length)) for length in store.lengths.tolist()]
    return Inputs(options, tokenizer, corpus, documents)


def _load_tokenizer(name: str) -> Any:
    source = str(sample_base()) if name == SAMPLE else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BenchError(f"--tokenizer {name}: {str(error).strip().splitlines()[0]}") from error
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def cut_randomly(texts: Documents) -> Documents:
    """Cut each text to a random share of its words, 5 to 100 %."""

    def cut() -> Iterator[str]:
        generator = random.Random(0)
        for text in texts.texts():
            words = text.split(" ")
            yield " ".join(words[: max(1, round(generator.uniform(0.05, 1) * len(words)))])

    return Documents(f"{texts.name}, cut", f"{texts.identity}, cut", cut)
