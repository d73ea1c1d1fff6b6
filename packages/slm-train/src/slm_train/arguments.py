"""Every flag of ``slm-train``: ours, and all of Hugging Face's TrainingArguments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser, TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from slm_data import DataError, SourceOptions, as_packing
from slm_train.device import DeviceDefaults, device_defaults
from slm_train.errors import UserError
from slm_train.flags import UsageError, read_command_line
from slm_train.old_flags import FALSE
from slm_train.run_record import RUN

MODES = ("baseline", "lora", "qlora", "butterfly", "butterfly_block")
NOT_BUILT = ("butterfly", "butterfly_block")
LEARNING_RATES = {"baseline": 5e-5, "lora": 2e-4, "qlora": 2e-4}
DEFAULT_BLOCK = 256
DESCRIPTION = "Fine-tune a small language model; with no flags, the built-in base on the built-in corpus."
NAMES_TEXTS = {"dataset", "train_file"}
DEMO = {
    "dataset": "sample",
    "max_train_samples": "500",
    "max_eval_samples": "60",
    "learning_rate": "8e-3",
    "per_device_train_batch_size": "4",
}


@dataclass(frozen=True)
class ModelOptions:
    """What is trained, and how it is adapted."""

    _argument_group_name = "model and mode"

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

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(
                f"unknown mode {self.mode!r}; {did_you_mean(self.mode, MODES)}choose from {', '.join(MODES)}"
            )
        if self.mode in NOT_BUILT:
            raise UserError(f"mode {self.mode} is not built yet; choose from baseline, lora, qlora")
        if self.from_scratch and self.mode != "baseline":
            raise UserError(f"--from_scratch trains every weight; give --mode baseline instead of {self.mode}")
        if self.vocab_size is not None and not self.from_scratch:
            raise UserError("--vocab_size learns a tokenizer for a new model; give --from_scratch config.json with it")


@dataclass(frozen=True)
class RowOptions:
    """How texts become rows."""

    _argument_group_name = "rows"

    block_size: int | None = field(
        default=None,
        metadata={"help": f"Tokens in a row. Default: {DEFAULT_BLOCK}, or the model's context if that is shorter."},
    )
    packing: str = field(
        default="best_fit",
        metadata={
            "help": "best_fit: documents side by side, apart from each other; concat: one stream, cut in blocks; "
            "none: one document a row."
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

    _argument_group_name = "run"

    config: str | None = field(default=None, metadata={"help": "A YAML file of flags; flags on the command line win."})
    dry_run: bool = field(
        default=False,
        metadata={"help": "Say what would run, and what memory and disk it would take; train nothing."},
    )
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace the run that --output_dir holds."})
    threads: int | None = field(default=None, metadata={"help": "CPU threads. Default: the fastest of a short probe."})
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


@dataclass
class SlmTrainingArguments(TrainingArguments):
    """TrainingArguments with the defaults of this project; each flag of the Trainer works."""

    output_dir: str | None = field(
        default=None, metadata={"help": "The run folder. Default: outputs/<dataset>-<mode>."}
    )
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the training rows."})
    logging_steps: float = field(
        default=10, metadata={"help": "Steps between logged losses; below 1, a share of the run."}
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})
    use_cache: bool = field(
        default=True, metadata={"help": "Kept in the saved config; training itself never uses a cache."}
    )
    report_to: list[str] = field(
        default_factory=list,
        metadata={"help": "Where logs go beside metrics.jsonl: tensorboard, wandb ..., or all of them."},
    )
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

    @property
    def model_name(self) -> str:
        """The base: as named, else distilgpt2, else, with the built-in corpus, the built-in base."""
        return self.model.model_path or ("sample" if self.source.dataset == "sample" else "distilgpt2")

    def as_dict(self) -> dict[str, Any]:
        """For run.json: every flag by its name, tokens and keys left out."""
        ours = {k: v for part in (self.source, self.model, self.rows, self.run) for k, v in vars(part).items()}
        return ours | {k: v for k, v in self.training.to_dict().items() if not k.endswith("_token")}


def did_you_mean(value: str, names: Sequence[str]) -> str:
    close = get_close_matches(value, names, n=1)
    return f"did you mean {close[0]}? " if close else ""


class _Parser(HfArgumentParser):
    """argparse ends the program with a page of usage; here a mistake is one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; slm-train --help lists the flags")


GROUPS = (SourceOptions, ModelOptions, RowOptions, RunOptions, SlmTrainingArguments)


def parse(argv: Sequence[str]) -> Arguments:
    """The command line as typed options. Raises UserError, UsageError or DataError, one sentence each."""
    groups: Any = GROUPS
    parser = _Parser(
        groups, prog="slm-train", usage="slm-train [--flag value ...]", description=DESCRIPTION, allow_abbrev=False
    )
    known = {option.removeprefix("--") for option in parser._option_string_actions}
    line = read_command_line(argv, known)
    device = device_defaults(cpu_wanted=_is_on("use_cpu", line.argv))
    defaults, notes = _defaults(line.given, device)
    forced = ["--use_cpu", "True"] if device.use_cpu else []  # there is nothing else, whatever was asked for
    try:
        parsed = parser.parse_args_into_dataclasses(
            [*defaults, *_bare_resume(line.argv), *forced], look_for_args_file=False, return_remaining_strings=True
        )
    except (ValueError, ImportError) as refused:  # the options check their own values
        if isinstance(refused, UsageError | DataError):
            raise
        raise UserError(str(refused).strip()) from refused
    source, model, rows, run, training, rest = parsed
    if rest:
        raise UsageError(f"{rest[0]!r} belongs to no flag; slm-train --help lists the flags")
    _complete(source, model, rows, training, line.given)
    if run.muon and model.mode != "baseline":
        raise UserError(f"--muon is for training every weight; give --mode baseline instead of {model.mode}")
    _check_loggers(training.report_to)
    return Arguments(source, model, rows, run, training, device.name, (*line.notes, *notes))


def _is_on(switch: str, argv: Sequence[str]) -> bool:
    """Whether the last ``--switch`` in ``argv`` is on: alone, or with anything but a no."""
    said = [at for at, word in enumerate(argv) if word == f"--{switch}"]
    return bool(said) and "".join(argv[said[-1] + 1 : said[-1] + 2]).lower() not in FALSE


def _check_loggers(names: Sequence[str]) -> None:
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = sorted(INTEGRATION_TO_CALLBACK)
            raise UserError(f"--report_to {name}: {did_you_mean(name, known)}known are {', '.join(known)}")
        if name not in (here := get_available_reporting_integrations()):
            raise UserError(
                f"--report_to {name}: its package is not installed; install it, or use {' or '.join(here) or 'none'}"
            )


def _bare_resume(argv: Iterable[str]) -> list[str]:
    """``--resume_from_checkpoint`` alone means the newest checkpoint of the output folder."""
    tokens = list(argv)
    for at in range(len(tokens) - 1, -1, -1):
        following = tokens[at + 1] if at + 1 < len(tokens) else "--"
        if tokens[at] == "--resume_from_checkpoint" and following.startswith("--"):
            tokens.insert(at + 1, "true")
    return tokens


def _defaults(given: frozenset[str], device: DeviceDefaults) -> tuple[list[str], list[str]]:
    """Flags for what the user left open, and what is said about it."""
    flags = {"bf16": device.bf16 and "fp16" not in given, "dataloader_pin_memory": not device.use_cpu}
    argv = [word for name, on in flags.items() if name not in given for word in (f"--{name}", str(on))]
    if given & NAMES_TEXTS:
        return argv, []
    demo = [word for name, value in DEMO.items() if name not in given for word in (f"--{name}", value)]
    stories = "" if "max_train_samples" in given else f" {DEMO['max_train_samples']} of its stories,"
    return argv + demo, [
        f"no dataset named: the built-in corpus,{stories} with the built-in base (--dataset, --train_file)"
    ]


def _complete(
    source: SourceOptions,
    model: ModelOptions,
    rows: RowOptions,
    training: SlmTrainingArguments,
    given: frozenset[str],
) -> None:
    """Defaults that depend on other flags."""
    if "learning_rate" not in given and given & NAMES_TEXTS:
        training.learning_rate = LEARNING_RATES[model.mode]
    if "train_sampling_strategy" not in given and rows.packing == "none":
        training.train_sampling_strategy = "group_by_length"
    if "output_dir" not in given:
        training.output_dir = free_output_dir(
            f"outputs/{_short_name(source)}-{model.mode}", training.resume_from_checkpoint
        )
    if training.gradient_checkpointing and training.gradient_checkpointing_kwargs is None:
        training.gradient_checkpointing_kwargs = {"use_reentrant": False}


def _short_name(source: SourceOptions) -> str:
    """What the default output folder is called after."""
    named = source.dataset or Path(source.train_file[0]).stem
    return re.sub(r"[^A-Za-z0-9.-]+", "-", named.rpartition("/")[2]).strip("-.") or "run"


def free_output_dir(wanted: str, resuming: str | None) -> str:
    """``wanted``, or, when nothing is resumed, the first of wanted-2, wanted-3 ... without a run."""
    folder, number = wanted, 2
    while not resuming and (Path(folder) / RUN).exists():
        folder, number = f"{wanted}-{number}", number + 1
    return folder
