"""Real tokens a second: slm-train's Trainer flow beside the plain Hugging Face Trainer.

    uv run python scripts/bench_train_speed.py --pairs 5 --steps 4

Peer: Trainer as its examples use it: rows truncated and padded to the block, float32, its own defaults.
Ours: the defaults of slm-train (packed rows, bfloat16 where the device has it, probed threads, output layer and
loss in one, GELU as one kernel). Same model (distilgpt2's shape, random weights), same texts, same machine, one
process, pairs interleaved; padding is not counted, nor is the first step of a run. Prints medians, their ratio,
and its spread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from slm_data import IGNORE, SourceOptions, load_corpus
from slm_train.data import make_rows
from slm_train.device import fastest_threads
from slm_train.modes import Base, one_kernel_gelu
from slm_train.parsing import parse
from slm_train.trainer import SlmTrainer


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


def timed(trainer: Trainer, real_tokens: list[int]) -> float:
    """Real tokens a second of all steps but the first."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    return sum(real_tokens[1 : len(clock.ends)]) / (clock.ends[-1] - clock.ends[0])


def fresh_model(vocabulary: int) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_layer=6))


def peer(texts: list[str], tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace) -> float:
    """The plain Trainer on rows padded to the block."""
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    encoded = tokenizer(
        texts, truncation=True, max_length=options.block_size, padding="max_length", return_tensors="pt"
    )
    real: list[int] = []

    def collate(rows: list[int]) -> dict[str, torch.Tensor]:
        mask = encoded["attention_mask"][rows]
        real.append(int(mask.sum()))
        labels = encoded["input_ids"][rows].masked_fill(mask == 0, IGNORE)
        return {"input_ids": encoded["input_ids"][rows], "attention_mask": mask, "labels": labels}

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, max_steps=options.steps, per_device_train_batch_size=options.batch, report_to="none",
            save_strategy="no", remove_unused_columns=False, dataloader_pin_memory=False, disable_tqdm=True,
        )  # fmt: skip
        rows: Any = list(range(len(texts)))
        return timed(Trainer(fresh_model(len(tokenizer)), settings, collate, rows), real)


def ours(texts: list[str], tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace) -> float:
    """slm-train's own Trainer, rows and defaults."""
    with tempfile.TemporaryDirectory() as folder:
        words = f"--dataset {options.dataset} --mode baseline --output_dir {folder} --max_steps {options.steps}"
        words += f" --per_device_train_batch_size {options.batch} --block_size {options.block_size} --save_strategy no"
        arguments = parse([*words.split(), "--max_train_samples", str(len(texts)), "--max_eval_samples", "8"])
        corpus = load_corpus(arguments.source)
        model = one_kernel_gelu(fresh_model(len(tokenizer)))
        rows = make_rows(arguments, corpus, Base("", "", model.config, tokenizer), lambda _: None)
        trainer = SlmTrainer(
            model=model, args=arguments.training, rows=rows.train, eval_rows=rows.validation, processing_class=tokenizer
        )
        real: list[int] = []
        collate = trainer.data_collator

        def counted(batch: Any) -> Any:
            real.append(sum(len(row.input_ids) for row in batch))
            return collate(batch)

        trainer.data_collator = counted
        return timed(trainer, real)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="tinystories")
    parser.add_argument("--tokenizer", default="distilbert/distilgpt2")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--block_size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    texts = list(load_corpus(SourceOptions(dataset=options.dataset, max_train_samples=options.samples)).train)
    default_threads, probed = torch.get_num_threads(), fastest_threads()
    speeds: dict[str, list[float]] = {"peer": [], "ours": []}
    sides: list[tuple[str, Callable[..., float], int]] = [("peer", peer, default_threads), ("ours", ours, probed)]
    for _ in range(options.pairs):
        for name, side, threads in sides:
            torch.set_num_threads(threads)
            speeds[name].append(side(texts, tokenizer, options))
    ratios = [a / b for a, b in zip(speeds["ours"], speeds["peer"], strict=True)]
    print(f"ours / peer: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} pairs)")
    for name, found in speeds.items():
        print(f"{name}: {statistics.median(found):,.0f} real tokens a second")
    print(json.dumps({"settings": vars(options), "threads": [default_threads, probed], "speeds": speeds}))


if __name__ == "__main__":
    main()
