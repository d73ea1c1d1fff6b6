"""Install the run folder of ``train.yaml`` as the built-in base model of slm-data, and evaluate the installed files.

    uv run python recipes/sample-base/ship.py outputs/sample-base

Writes bfloat16 weights, tokenizer and config into the package, evaluates these files on the whole validation split of
TinyStories (one document per row), and prints the figures for the model card.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from slm_data import RowCollator, RowDataset, SourceOptions, load_corpus, plan_rows, sample_base, tokenize
from slm_train import continue_prompt, evaluate

PROMPTS = ("Once upon a time", "Lily wanted a", "One day, a little dog named Max")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of slm-train")
    run = parser.parse_args().run
    target = sample_base()
    model = AutoModelForCausalLM.from_pretrained(run, dtype=torch.float32).to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(run / name, target / name)
    evaluate_files(target)


def evaluate_files(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    store = tokenize(load_corpus(SourceOptions(dataset="tinystories")).validation, tokenizer)
    rows = RowDataset(store, plan_rows(store.lengths, 512, "none"))
    batches = DataLoader(rows, 16, collate_fn=RowCollator(tokenizer.eos_token_id, packed=False))  # type: ignore[arg-type, var-annotated]
    metrics = evaluate(model, batches, Accelerator(cpu=True), tokens_per_byte=store.tokens_per_byte, block_size=512)
    size = (folder / "model.safetensors").stat().st_size
    print(
        f"{metrics}\n{store.counts}\n{size / 2**20:.2f} MiB, {sum(p.numel() for p in model.parameters()):,} parameters"
    )
    for seed, prompt in enumerate(PROMPTS):
        print("---", continue_prompt(model, tokenizer, prompt, max_new_tokens=180, seed=seed), sep="\n")


if __name__ == "__main__":
    main()
