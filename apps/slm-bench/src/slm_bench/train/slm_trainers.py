"""slm-train's trainers, prepared as its command line prepares them."""

from pathlib import Path
from typing import Any

from transformers import GPT2Config

from slm_bench.train.inputs import Inputs
from slm_train import (
    Arguments,
    BaseModel,
    BudgetTrainer,
    Rows,
    SlmTrainer,
    StepCheckpoint,
    make_plan,
    make_rows,
    parse_arguments,
)

NEVER = 10**9  # steps


class NoCheckpoint(StepCheckpoint):
    """Writes no checkpoint. The loop would otherwise write one at its end, whatever the interval."""

    def save(self, *_: Any) -> None:
        pass


def silent(_: str) -> None:
    """Drop a log message."""


def prepare(inputs: Inputs, words: str, folder: str, seed: int) -> tuple[Arguments, BaseModel, Rows]:
    """Parse ``words``, a flow with its flags, and the flags that all flows share."""
    options = inputs.options
    shared = f"--mode {options.mode} --output_dir {folder} --seed {seed} --max_steps {options.steps}"
    shared += f" --dataset {options.dataset} --block_size {options.block_size} --bf16 {options.bf16}"
    arguments = parse_arguments([*words.split(), *shared.split()])
    base = BaseModel("", "", GPT2Config(), inputs.tokenizer)
    return arguments, base, make_rows(arguments, inputs.corpus, base, silent)


def budget_trainer(
    inputs: Inputs, folder: str, seed: int, packing: str, *, interval: int = NEVER, flags: str = ""
) -> BudgetTrainer:
    """Return the token-budget loop with further ``flags``; it writes a checkpoint every ``interval`` steps."""
    options = inputs.options
    words = f"dynamic --packing {packing} --target_tokens_per_step {options.budget} --log_interval {NEVER}"
    words += f" --max_tokens_per_micro_batch {options.micro} --checkpoint_interval {interval} {flags}"
    arguments, base, rows = prepare(inputs, words, folder, seed)
    plan = make_plan(arguments, base, rows, silent)
    assert plan
    assert arguments.budget
    return BudgetTrainer(
        plan=plan,
        budget=arguments.budget,
        checkpoint=(NoCheckpoint if interval == NEVER else StepCheckpoint)(Path(folder), {}, silent),
        state=None,
        print_line=silent,
        **_shared_arguments(inputs, arguments, rows, seed),
    )


def flow_trainer(inputs: Inputs, folder: str, seed: int, words: str) -> SlmTrainer:
    """Return the Trainer flow with the flags ``words``, without saving or logging."""
    arguments, _, rows = prepare(inputs, f"{words} --save_strategy no --logging_strategy no", folder, seed)
    return SlmTrainer(**_shared_arguments(inputs, arguments, rows, seed))


def _shared_arguments(inputs: Inputs, arguments: Arguments, rows: Rows, seed: int) -> dict[str, Any]:
    model, data = inputs.new_model(seed, ours=True), {"rows": rows.train, "eval_rows": rows.validation}
    return {"model": model, "args": arguments.training, "processing_class": inputs.tokenizer, **data}
