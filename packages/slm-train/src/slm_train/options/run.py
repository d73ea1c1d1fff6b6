"""Options of a run as a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from slm_train.errors import TrainError, did_you_mean
from slm_train.options.flag_effects import ACCEPTABLE


@dataclass(frozen=True)
class RunOptions:
    """Options of the run as a whole."""

    config: str | None = field(
        default=None, metadata={"help": "A YAML file of flags; flags on the command line take precedence."}
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "Print what would run, with estimates of memory and disk use; train nothing."},
    )
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace the run in --output_dir."})
    accept_changes: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Flags that a resumed run may change, by name, such as learning_rate; any other change is refused. "
            "optimizer_state accepts a checkpoint without one."
        },
    )
    threads: int | None = field(
        default=None, metadata={"help": "CPU threads. Default: the fastest number in a short measurement."}
    )
    max_minutes: float | None = field(
        default=None,
        metadata={
            "help": "Training time in minutes, excluding evaluations and checkpoints; replaces epochs and steps. The "
            "learning rate follows the fraction of the time, and intervals below 1 are fractions of it."
        },
    )
    muon: bool = field(
        default=False,
        metadata={
            "help": "Use Muon for the matrices of the transformer blocks and AdamW for the rest (mode baseline)."
        },
    )
    fused_loss: bool = field(
        default=True,
        metadata={
            "help": "Whether to compute output layer and loss together, in chunks: the same loss, with less memory "
            "and time (default), or by the model's own function (false)."
        },
    )
    find_learning_rate: bool = field(
        default=False,
        metadata={
            "help": "Try three to five learning rates around the default, or around --learning_rate, for a few steps "
            "each on the run's own rows, and train with the lowest that comes close to the best."
        },
    )
    prompt: list[str] | None = field(
        default=None,
        metadata={
            "help": "Texts to continue before and after training, each in quotes; empty for none. Default: the first "
            "words of two held-out documents; two openings of a story for the built-in corpus."
        },
    )
    sample_every: int = field(
        default=0, metadata={"help": "Also continue the texts of --prompt every N optimizer steps; 0 for never."}
    )
    patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after N evaluations without a better loss; without an interval of evaluations, there are ten."
        },
    )
    keep_best: bool = field(
        default=False,
        metadata={
            "help": "End with the weights of the best evaluation; without an interval of evaluations, there are ten."
        },
    )

    def __post_init__(self) -> None:
        for name in self.accept_changes:
            if name not in ACCEPTABLE:
                raise TrainError(
                    f"--accept_changes {name}: {did_you_mean(name, sorted(ACCEPTABLE))}choose from "
                    f"{', '.join(sorted(ACCEPTABLE))}; others cannot change within a run, or change nothing in it"
                )
        if self.patience is not None and self.patience < 1:
            raise TrainError(f"--patience {self.patience} must be at least 1")
        if self.sample_every < 0:
            raise TrainError(f"--sample_every {self.sample_every} must not be below 0; use 0 for no samples")
        if self.sample_every and self.prompt is not None and not any(self.prompt):
            raise TrainError(
                f"--sample_every {self.sample_every} continues the texts of --prompt; give one that is not empty"
            )
        if self.max_minutes is not None and not 0 < self.max_minutes < math.inf:
            raise TrainError(f"--max_minutes {self.max_minutes:g} must be above 0 and finite")
        if self.threads is not None and self.threads < 1:
            raise TrainError(f"--threads {self.threads} must be at least 1")
