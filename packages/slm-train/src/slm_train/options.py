"""Every flag of ``slm-train``: ours, and all of Hugging Face's TrainingArguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from transformers import TrainingArguments

from slm_adapters import ButterflySettings
from slm_data import SourceOptions, as_packing
from slm_train.errors import UserError

MODES = ("baseline", "lora", "qlora", "butterfly", "butterfly_block")
ROTATING = ("butterfly", "butterfly_block")
DEFAULT_BLOCK = 256
ENDLESS = 10**9  # steps: more than a run of any time takes


@dataclass(frozen=True)
class ModelOptions:
    """What is trained, and how it is adapted."""

    mode: str = field(default="lora", metadata={"help": f"How to adapt: {', '.join(MODES)}."})
    model_path: str | None = field(
        default=None,
        metadata={
            "help": "A hub name, a folder, or `sample` (the built-in base). Default: distilgpt2 where a dataset or "
            "files are named, else sample."
        },
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the model on the hub."}
    )
    tokenizer_path: str | None = field(default=None, metadata={"help": "Tokenizer, if not the model's own."})
    from_scratch: str | None = field(
        default=None,
        metadata={
            "help": "A transformers config.json: train a model of this shape from random weights (mode baseline)."
        },
    )
    vocab_size: int | None = field(
        default=None,
        metadata={
            "help": "With --from_scratch: learn a byte-level BPE tokenizer of this size from the training texts."
        },
    )
    lora_r: int = field(default=16, metadata={"help": "LoRA rank."})
    lora_alpha: float = field(default=32.0, metadata={"help": "LoRA scale: the update counts alpha / r times."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout on the input of LoRA layers."})
    target_modules: list[str] = field(
        default_factory=list,
        metadata={"help": "Layers to adapt, by their last name. Default: every linear layer of the blocks."},
    )
    use_rslora: bool = field(default=False, metadata={"help": "Rank-stabilised LoRA: scale by alpha / sqrt(r)."})
    use_dora: bool = field(default=False, metadata={"help": "DoRA: learn magnitude and direction apart."})
    butterfly_stages: int | None = field(
        default=None, metadata={"help": "Stages of a rotation. Default: log2 of the block, which mixes it fully."}
    )
    butterfly_block_size: int | None = field(
        default=None,
        metadata={"help": "Coordinates of a block (butterfly_block). Default: the largest that fits, up to 256."},
    )
    butterfly_preset: str = field(
        default="speed",
        metadata={"help": "speed: rotate the narrower side; quality: both sides and a magnitude for each output."},
    )
    butterfly_side: str | None = field(
        default=None, metadata={"help": "input, output, both or auto (the narrower). Default: as the preset."}
    )
    butterfly_scale: bool | None = field(
        default=None, metadata={"help": "Learn a magnitude for each output feature. Default: as the preset."}
    )
    butterfly_dropout: float = field(default=0.0, metadata={"help": "Share of angles turned off in a step."})
    load_in_4bit: bool = field(
        default=False, metadata={"help": "Hold the base in 4 bits under any adapter; qlora is lora with this."}
    )

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(
                f"unknown mode {self.mode!r}; {did_you_mean(self.mode, MODES)}choose from {', '.join(MODES)}"
            )
        self._check_rotation()
        if self.from_scratch and self.mode != "baseline":
            raise UserError(f"--from_scratch trains every weight; give --mode baseline instead of {self.mode}")
        if self.vocab_size is not None and not self.from_scratch:
            raise UserError("--vocab_size learns a tokenizer for a new model; give --from_scratch config.json with it")
        if self.load_in_4bit and self.mode == "baseline":
            raise UserError("--load_in_4bit freezes the base, and mode baseline trains it; give an adapter's mode")

    @property
    def four_bit(self) -> bool:
        return self.load_in_4bit or self.mode == "qlora"

    @property
    def rotation(self) -> ButterflySettings:
        """What the flags say of a butterfly. Raises AdapterError for values out of range."""
        block = (self.butterfly_block_size or "auto") if self.mode == "butterfly_block" else None
        return ButterflySettings(
            block_size=block,
            stages=self.butterfly_stages,
            preset=self.butterfly_preset,
            side=self.butterfly_side,
            scale=self.butterfly_scale,
            dropout=self.butterfly_dropout,
            target_modules=tuple(self.target_modules),
        )

    def _check_rotation(self) -> None:
        if self.mode == "butterfly" and self.butterfly_block_size is not None:
            raise UserError(
                f"mode butterfly rotates the full width; give --mode butterfly_block for --butterfly_block_size "
                f"{self.butterfly_block_size}"
            )
        if self.butterfly_block_size is not None and self.butterfly_block_size < 2:
            raise UserError(f"--butterfly_block_size {self.butterfly_block_size} must be at least 2")
        if self.mode in ROTATING:
            _ = self.rotation  # checks the values


@dataclass(frozen=True)
class RowOptions:
    """How texts become rows."""

    block_size: int | None = field(
        default=None,
        metadata={"help": f"Tokens in a row. Default: {DEFAULT_BLOCK}, or the model's context if that is shorter."},
    )
    packing: str = field(
        default="best_fit",
        metadata={
            "help": "How rows are filled. best_fit: documents side by side, apart from each other; concat: one stream, "
            "cut in blocks; none: one document a row."
        },
    )
    packing_fill: float = field(
        default=0.95,
        metadata={
            "help": "How full best_fit makes rows, by cutting documents to fit the gaps; 0 keeps documents whole."
        },
    )
    token_cache: str | None = field(
        default=None, metadata={"help": "Folder for tokenised corpora. Default: $SLM_CACHE or ~/.cache/slm."}
    )
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Processes to tokenise with. Default: as many as pay."}
    )

    def __post_init__(self) -> None:
        as_packing(self.packing)
        if self.block_size is not None and self.block_size < 2:
            raise UserError(f"--block_size {self.block_size} leaves nothing to predict; use 2 or more")
        if not 0 <= self.packing_fill <= 1:
            raise UserError(f"--packing_fill {self.packing_fill} must be from 0 to 1")


@dataclass(frozen=True)
class RunOptions:
    """The run as a whole."""

    config: str | None = field(default=None, metadata={"help": "A YAML file of flags; flags on the command line win."})
    dry_run: bool = field(
        default=False,
        metadata={"help": "Say what would run, and what memory and disk it would take; train nothing."},
    )
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace the run that --output_dir holds."})
    threads: int | None = field(default=None, metadata={"help": "CPU threads. Default: the fastest of a short probe."})
    max_minutes: float | None = field(
        default=None,
        metadata={
            "help": "Train for so long, evaluations and checkpoints not counted, in place of epochs or steps. The "
            "learning rate follows the share of the time; intervals below 1 are shares of it too."
        },
    )
    muon: bool = field(
        default=False,
        metadata={"help": "Muon for the matrices inside the blocks, AdamW for the rest (mode baseline)."},
    )
    fused_loss: bool = field(
        default=True,
        metadata={"help": "Output layer and loss in one, by chunks: the same loss, less memory, faster."},
    )
    prompt: str = field(
        default="Once upon a time", metadata={"help": "Continued before and after training; empty for none."}
    )

    def __post_init__(self) -> None:
        if self.max_minutes is not None and not 0 < self.max_minutes < math.inf:
            raise UserError(f"--max_minutes {self.max_minutes:g} is no time to train; give a number above 0")


@dataclass(frozen=True)
class BudgetOptions:
    """The token-budget loop, ``slm-train dynamic``."""

    target_tokens_per_step: int = field(
        default=4096, metadata={"help": "Predicted tokens that an optimizer step waits for, over all processes."}
    )
    max_tokens_per_micro_batch: int = field(
        default=2048, metadata={"help": "Most tokens of a micro-batch, padding counted: bounds memory."}
    )
    log_interval: int = field(default=10, metadata={"help": "Steps between lines of the log."})
    eval_interval: int = field(default=0, metadata={"help": "Steps between evaluations on the way; 0 for none."})
    checkpoint_interval: int = field(default=1, metadata={"help": "Steps between checkpoints."})
    patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations without a better loss."}
    )
    keep_best: bool = field(default=False, metadata={"help": "End with the weights of the best evaluation."})
    schedule_in: str = field(
        default="steps", metadata={"help": "What the learning-rate schedule counts: steps or tokens."}
    )
    pad_to_multiple_of: int | None = field(
        default=None,
        metadata={"help": "Round lengths of micro-batches up, so that few differ. Default: 64 with --torch_compile."},
    )

    def __post_init__(self) -> None:
        for name in ("log_interval", "checkpoint_interval", "patience", "pad_to_multiple_of"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value} must be at least 1")
        if self.eval_interval < 0:
            raise UserError(f"--eval_interval {self.eval_interval} must not be below 0; 0 is for none")
        if self.schedule_in not in ("steps", "tokens"):
            raise UserError(f"--schedule_in {self.schedule_in!r}: choose from steps, tokens")
        for name in ("patience", "keep_best"):
            if getattr(self, name) and not self.eval_interval:
                raise UserError(f"--{name} looks at evaluations; give --eval_interval with it")

    def multiple(self, compiled: bool) -> int:
        """What lengths of micro-batches are rounded up to."""
        return self.pad_to_multiple_of or (64 if compiled else 1)


@dataclass
class SlmTrainingArguments(TrainingArguments):
    """TrainingArguments with the defaults of this project; each flag of the Trainer works.

    What the common ones mean is said in help_page.py."""

    output_dir: str | None = None
    num_train_epochs: float = 1.0
    logging_steps: float = 10
    save_total_limit: int | None = 2
    use_cache: bool = field(
        default=True, metadata={"help": "Kept in the saved config; training itself never uses a cache."}
    )
    report_to: list[str] = field(default_factory=list)
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Has no effect here: rows hold what the model takes."}
    )


@dataclass(frozen=True)
class Arguments:
    """All flags of a run, parsed, with what fits the device and the mode filled in."""

    source: SourceOptions
    model: ModelOptions
    rows: RowOptions
    run: RunOptions
    training: SlmTrainingArguments
    device_name: str
    notes: tuple[str, ...]
    given: frozenset[str] = frozenset()  # flags that the user set
    budget: BudgetOptions | None = None  # of slm-train dynamic

    @property
    def model_name(self) -> str:
        """The base: as named, else distilgpt2, else, with the built-in corpus, the built-in base."""
        return self.model.model_path or ("sample" if self.source.dataset == "sample" else "distilgpt2")

    @property
    def rows_of_micro_batch(self) -> int | None:
        """The most rows of a micro-batch of the token-budget loop, where the user gave any."""
        named = "per_device_train_batch_size" in self.given
        return self.training.per_device_train_batch_size if named else None

    def as_dict(self) -> dict[str, Any]:
        """For run.json: every flag by its name, tokens and keys left out."""
        parts = (self.source, self.model, self.rows, self.run, *([self.budget] if self.budget else []))
        ours = {k: v for part in parts for k, v in vars(part).items()}
        return ours | {k: v for k, v in self.training.to_dict().items() if not k.endswith("_token")}


def did_you_mean(value: str, names: Sequence[str]) -> str:
    close = get_close_matches(value, names, n=1)
    return f"did you mean {close[0]}? " if close else ""
