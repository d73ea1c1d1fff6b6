"""All options of a run, parsed: those of this package and those of Hugging Face's Trainer."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import TrainingArguments

from slm_data import SourceOptions
from slm_train.options.budget import BudgetOptions
from slm_train.options.model import ModelOptions
from slm_train.options.rows import RowOptions
from slm_train.options.run import RunOptions

UNLIMITED_STEPS = 10**9  # max_steps of a run that is limited by --max_minutes: never reached


@dataclass
class SlmTrainingArguments(TrainingArguments):
    """TrainingArguments with the defaults of this project; every flag of the Trainer works.

    Defaults and help texts must be literals: the help page reads them from this source without importing it. Common
    flags have other texts on the help page (``command_line/help_texts.py``).
    """

    output_dir: str | None = None
    num_train_epochs: float = 1.0
    logging_steps: float = 10
    save_total_limit: int | None = 2
    use_cache: bool = field(
        default=True, metadata={"help": "Stored in the saved config; training itself never uses a cache."}
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Log the mean of earlier losses where one is NaN or infinite; the run stops there anyway."},
    )
    report_to: list[str] = field(default_factory=list)
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Has no effect here: rows contain only what the model accepts."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.fsdp_plugin_args = None  # accelerate does not shard: slm_train.sharding does

    @property
    def place_model_on_device(self) -> bool | None:
        """Whether the Trainer moves the model to its device; None for its own choice. Sharding moves it in parts."""
        return False if self.fsdp else None


def autocast_dtype(training: TrainingArguments) -> torch.dtype:
    """Return what a run multiplies in: the dtype of autocast, and of 4-bit layers; float32 without autocast."""
    if training.bf16 or training.fp16:
        return torch.bfloat16 if training.bf16 else torch.float16
    return torch.float32


@dataclass(frozen=True)
class Arguments:
    """All options of a run, parsed, with defaults that fit the device and the mode filled in."""

    source: SourceOptions
    model: ModelOptions
    rows: RowOptions
    run: RunOptions
    training: SlmTrainingArguments
    device_name: str
    notes: tuple[str, ...]  # lines to print: flags that were translated, defaults that were chosen
    explicit_flags: frozenset[str] = frozenset()  # flags that the user set
    budget: BudgetOptions | None = None  # None in the Trainer flow

    @property
    def writes_nothing(self) -> bool:
        """Whether the command only prints something, and leaves the run folder as it is."""
        return self.run.dry_run or self.rows.show_rows > 0

    @property
    def model_name(self) -> str:
        """The name of the base model. Default: the built-in base for the built-in corpus, distilgpt2 for others."""
        return self.model.model_path or ("sample" if (self.source.dataset or "").lower() == "sample" else "distilgpt2")

    @property
    def max_micro_batch_rows(self) -> int | None:
        """Upper bound on the rows of a micro-batch of the token-budget loop; None if the user set none."""
        is_explicit = "per_device_train_batch_size" in self.explicit_flags
        return self.training.per_device_train_batch_size if is_explicit else None

    def without_packing(self) -> Arguments:
        """Return the options of the same run with ``--packing none``, and the sampling that is its default."""
        training = copy.copy(self.training)
        if "train_sampling_strategy" not in self.explicit_flags:
            training.train_sampling_strategy = "group_by_length"
        return replace(self, rows=replace(self.rows, packing="none"), training=training)

    def as_dict(self) -> dict[str, Any]:
        """Return the value of every flag by name, for run.json. Access tokens are left out."""
        groups = (self.source, self.model, self.rows, self.run, *([self.budget] if self.budget else []))
        ours = {name: value for group in groups for name, value in vars(group).items()}
        return ours | {name: value for name, value in self.training.to_dict().items() if not name.endswith("_token")}
