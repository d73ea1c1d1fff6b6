"""Options of the token-budget loop."""

from __future__ import annotations

from dataclasses import dataclass, field

from slm_train.errors import TrainError

AUTO = "auto"
AUTO_FLAGS = frozenset({"checkpoint_interval", "max_tokens_per_micro_batch"})  # flags that take a number or AUTO
USUAL_MICRO_BATCH = 2048  # tokens
COMPILED_LENGTH_MULTIPLE = 64  # with --torch_compile: torch compiles again for each new length of a micro-batch


@dataclass(frozen=True)
class BudgetOptions:
    """Options of the token-budget loop, ``slm-train dynamic``."""

    target_tokens_per_step: int = field(
        default=4096, metadata={"help": "Predicted tokens of an optimizer step, over all processes."}
    )
    max_tokens_per_micro_batch: int | str = field(
        default=2048,  # a literal, which the help page reads
        metadata={
            "help": "Upper bound on the tokens of a micro-batch, padding included; bounds memory. auto: as many as fit "
            "in the memory that is free, by an estimate."
        },
    )
    log_interval: int = field(default=10, metadata={"help": "Steps between log lines."})
    eval_interval: int = field(default=0, metadata={"help": "Steps between evaluations during training; 0 for none."})
    checkpoint_interval: int | str = field(
        default=1,
        metadata={
            "help": "Steps between checkpoints, or auto: as often as costs at most 2 %% of the training time. Default: "
            "1 on a CPU, auto on a GPU."
        },
    )
    schedule_in: str = field(default="steps", metadata={"help": "Unit of the learning-rate schedule: steps or tokens."})
    pad_to_multiple_of: int | None = field(
        default=None,
        metadata={
            "help": "Pad micro-batches to a multiple of this length, so that few lengths occur. Default: "
            f"{COMPILED_LENGTH_MULTIPLE} with --torch_compile, else 1."
        },
    )

    def __post_init__(self) -> None:
        for name in ("log_interval", "checkpoint_interval", "pad_to_multiple_of", "max_tokens_per_micro_batch"):
            value = getattr(self, name)
            if isinstance(value, str) and value != AUTO:
                raise TrainError(f"--{name} {value} must be a whole number, or auto")
            if isinstance(value, int) and value < 1:
                raise TrainError(f"--{name} {value} must be at least 1")
        if self.eval_interval < 0:
            raise TrainError(f"--eval_interval {self.eval_interval} must not be below 0; use 0 for no evaluations")
        if self.schedule_in not in ("steps", "tokens"):
            raise TrainError(f"--schedule_in {self.schedule_in!r}: choose from steps, tokens")

    @property
    def steps_between_checkpoints(self) -> int | None:
        """The interval in steps; None if checkpoints are chosen by what they cost."""
        return self.checkpoint_interval if isinstance(self.checkpoint_interval, int) else None

    @property
    def has_automatic_size(self) -> bool:
        """Whether the size of micro-batches is still to be chosen by the memory that is free."""
        return self.max_tokens_per_micro_batch == AUTO

    @property
    def micro_batch_tokens(self) -> int:
        """The upper bound on the tokens of a micro-batch; the usual one while it is to be chosen."""
        size = self.max_tokens_per_micro_batch
        return size if isinstance(size, int) else USUAL_MICRO_BATCH

    def length_multiple(self, compiled: bool) -> int:
        """Return what the lengths of micro-batches are rounded up to."""
        return self.pad_to_multiple_of or (COMPILED_LENGTH_MULTIPLE if compiled else 1)
