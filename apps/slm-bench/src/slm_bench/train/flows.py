"""slm-train's own flows, prepared as its command line prepares them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import GPT2Config

from slm_bench.train.setting import Setting
from slm_train import Arguments, BudgetTrainer, Rows, SlmTrainer, StepCheckpoint, make_plan, make_rows
from slm_train import BaseModel as Base
from slm_train import parse_arguments as parse

NEVER = 10**9  # steps


class NoCheckpoint(StepCheckpoint):
    """The loop writes one at its end, whatever it is told."""

    def save(self, *_: Any) -> None:
        pass


def prepared(setting: Setting, words: str, folder: str, seed: int) -> tuple[Arguments, Base, Rows]:
    """``words``: the flow, and flags beside those that all flows share."""
    options = setting.options
    shared = f"--mode {options.mode} --output_dir {folder} --seed {seed} --max_steps {options.steps}"
    shared += f" --dataset {options.dataset} --block_size {options.block_size} --bf16 {options.bf16}"
    arguments = parse([*words.split(), *shared.split()])
    base = Base("", "", GPT2Config(), setting.tokenizer)
    return arguments, base, make_rows(arguments, setting.corpus, base, silent)


def silent(_: str) -> None:
    """Nothing is said of rows and plans."""


def loop_trainer(
    setting: Setting, folder: str, seed: int, packing: str, *, interval: int = NEVER, more: str = ""
) -> BudgetTrainer:
    """The token-budget loop, with a checkpoint every ``interval`` steps; ``more`` of its flags."""
    options = setting.options
    words = f"dynamic --packing {packing} --target_tokens_per_step {options.budget} --log_interval {NEVER}"
    words += f" --max_tokens_per_micro_batch {options.micro} --checkpoint_interval {interval} {more}"
    arguments, base, rows = prepared(setting, words, folder, seed)
    plan = make_plan(arguments, base, rows, silent)
    assert plan
    assert arguments.budget
    checkpoint = (NoCheckpoint if interval == NEVER else StepCheckpoint)(Path(folder), {}, silent)
    return BudgetTrainer(
        plan=plan,
        budget=arguments.budget,
        checkpoint=checkpoint,
        state=None,
        say=silent,
        **_parts(setting, arguments, rows, seed),
    )


def flow_trainer(setting: Setting, folder: str, seed: int, words: str) -> SlmTrainer:
    """The Trainer flow, without saving or logging."""
    flags = f"{words} --save_strategy no --logging_strategy no"
    arguments, _, rows = prepared(setting, flags, folder, seed)
    return SlmTrainer(**_parts(setting, arguments, rows, seed))


def _parts(setting: Setting, arguments: Arguments, rows: Rows, seed: int) -> dict[str, Any]:
    """What both trainers are made of."""
    return {
        "model": setting.model(seed, ours=True),
        "args": arguments.training,
        "rows": rows.train,
        "eval_rows": rows.validation,
        "processing_class": setting.tokenizer,
    }
