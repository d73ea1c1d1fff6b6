"""Options of ``slm-train`` as dataclasses: model, rows, run, token budget.

Nothing here imports torch or transformers, so that ``--help`` and a mistyped flag respond at once. The options of
Hugging Face's Trainer are in ``slm_train.arguments``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import slm_data
from slm_adapters import ButterflySettings, OftSettings
from slm_train.errors import TrainError, did_you_mean

MODES = ("baseline", "lora", "qlora", "butterfly", "butterfly_block", "oft")  # the last to compare with
BUTTERFLY_MODES = ("butterfly", "butterfly_block")
DEFAULT_BLOCK_SIZE = 256
COMPILED_LENGTH_MULTIPLE = 64  # with --torch_compile: torch compiles again for each new length of a micro-batch


@dataclass(frozen=True)
class ModelOptions:
    """Options of the base model and its adapter. Raises TrainError for options that contradict each other."""

    mode: str = field(default="lora", metadata={"help": f"Training method: {', '.join(MODES)} (PEFT's, to compare)."})
    model_path: str | None = field(
        default=None,
        metadata={
            "help": "The base model: a hub name, a folder, or `sample` (built in). Default: distilgpt2 if a dataset or "
            "files are given, else sample."
        },
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the model on the hub."}
    )
    tokenizer_path: str | None = field(default=None, metadata={"help": "Tokenizer to use instead of the model's own."})
    from_scratch: str | None = field(
        default=None,
        metadata={
            "help": "A transformers config.json: train a model of this shape from random weights (mode baseline)."
        },
    )
    vocab_size: int | None = field(
        default=None,
        metadata={"help": "With --from_scratch: train a byte-level BPE tokenizer of this size on the training texts."},
    )
    lora_r: int = field(default=16, metadata={"help": "LoRA rank."})
    lora_alpha: float = field(default=32.0, metadata={"help": "LoRA alpha; updates are scaled by alpha / r."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout on the input of LoRA layers."})
    target_modules: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Layers to adapt, by the last part of their name or all of it. Default, or all-linear: every "
            "linear layer of the transformer blocks. LoRA also adapts embeddings, and an output layer that is not tied."
        },
    )
    modules_to_save: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Other modules that are trained as a whole and saved with the adapter, by the last part of their "
            "name, such as lm_head or embed_tokens."
        },
    )
    resize_embeddings: bool = field(
        default=False,
        metadata={
            "help": "Add rows to the embeddings if the tokenizer has ids beyond them, such as added tokens; adapters "
            "train these rows too."
        },
    )
    use_rslora: bool = field(
        default=False, metadata={"help": "Rank-stabilised LoRA: scale updates by alpha / sqrt(r)."}
    )
    use_dora: bool = field(default=False, metadata={"help": "DoRA: learn magnitude and direction separately."})
    butterfly_stages: int | None = field(
        default=None,
        metadata={"help": "Stages of a rotation. Default: log2 of the block size, which mixes every coordinate."},
    )
    butterfly_block_size: int | None = field(
        default=None,
        metadata={"help": "Block size of butterfly_block. Default: the largest that fits the layers, up to 256."},
    )
    butterfly_preset: str = field(
        default="speed",
        metadata={
            "help": "Preset for side and scale. speed: rotate the narrower side; quality: rotate both sides and learn "
            "a magnitude for each output."
        },
    )
    butterfly_side: str | None = field(
        default=None,
        metadata={"help": "Side to rotate: input, output, both or auto (the narrower). Default: set by the preset."},
    )
    butterfly_scale: bool | None = field(
        default=None, metadata={"help": "Learn a magnitude for each output feature. Default: set by the preset."}
    )
    butterfly_dropout: float = field(default=0.0, metadata={"help": "Fraction of angles set to zero in a step."})
    oft_block_size: int | None = field(
        default=None,
        metadata={"help": "Block size of oft. Default: the largest that divides the widths of the layers, up to 32."},
    )
    load_in_4bit: bool = field(
        default=False,
        metadata={"help": "Hold the base model in 4 bits under any adapter; qlora is lora with this flag."},
    )

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise TrainError(
                f"unknown mode {self.mode!r}; {did_you_mean(self.mode, MODES)}choose from {', '.join(MODES)}"
            )
        self._check_butterfly()
        self._check_oft()
        if self.from_scratch and self.mode != "baseline":
            raise TrainError(f"--from_scratch trains every weight; give --mode baseline instead of {self.mode}")
        if self.vocab_size is not None and not self.from_scratch:
            raise TrainError("--vocab_size trains a tokenizer for a new model; give --from_scratch config.json with it")
        if self.load_in_4bit and self.mode == "baseline":
            raise TrainError("--load_in_4bit freezes the base, which mode baseline trains; give the mode of an adapter")

    @property
    def is_four_bit(self) -> bool:
        """Whether the base model is held in 4 bits."""
        return self.load_in_4bit or self.mode == "qlora"

    @property
    def butterfly_settings(self) -> ButterflySettings:
        """The butterfly flags as settings. Raises AdapterError for values out of range."""
        block_size = (self.butterfly_block_size or "auto") if self.mode == "butterfly_block" else None
        return ButterflySettings(
            block_size=block_size,
            stages=self.butterfly_stages,
            preset=self.butterfly_preset,
            side=self.butterfly_side,
            scale=self.butterfly_scale,
            dropout=self.butterfly_dropout,
            target_modules=tuple(self.target_modules),
            modules_to_save=tuple(self.modules_to_save),
        )

    @property
    def oft_settings(self) -> OftSettings:
        """The OFT flags as settings. Raises AdapterError for values out of range."""
        return OftSettings(
            block_size=self.oft_block_size,
            target_modules=tuple(self.target_modules),
            modules_to_save=tuple(self.modules_to_save),
        )

    def _check_oft(self) -> None:
        if self.mode == "oft":
            _ = self.oft_settings  # raises AdapterError for values out of range
        elif self.oft_block_size is not None:
            raise TrainError(f"--oft_block_size {self.oft_block_size} is for --mode oft, not for {self.mode}")

    def _check_butterfly(self) -> None:
        if self.mode == "butterfly" and self.butterfly_block_size is not None:
            raise TrainError(
                f"mode butterfly rotates the full width; give --mode butterfly_block for --butterfly_block_size "
                f"{self.butterfly_block_size}"
            )
        if self.butterfly_block_size is not None and self.butterfly_block_size < 2:
            raise TrainError(f"--butterfly_block_size {self.butterfly_block_size} must be at least 2")
        if self.mode in BUTTERFLY_MODES:
            _ = self.butterfly_settings  # raises AdapterError for values out of range


@dataclass(frozen=True)
class RowOptions:
    """How documents become rows of tokens. Raises TrainError or DataError for values out of range."""

    block_size: int | None = field(
        default=None,
        metadata={
            "help": f"Tokens in a row. Default: {DEFAULT_BLOCK_SIZE}, or the model's context length if that is shorter."
        },
    )
    packing: str = field(
        default="best_fit",
        metadata={
            "help": "How rows are filled. best_fit: several documents in a row, without attention between them; "
            "concat: one stream, cut into blocks; none: one document per row. Default: best_fit, or none if the model "
            "does not keep packed documents apart, which is verified."
        },
    )
    packing_fill: float = field(
        default=0.95,
        metadata={
            "help": "Target fill of a best_fit row, reached by cutting documents to fit the gaps; 0 cuts only what "
            "is longer than a row."
        },
    )
    max_eval_tokens: int = field(
        default=200_000,
        metadata={"help": "Evaluate on about this many tokens of the validation rows, evenly spaced; 0 for all."},
    )
    token_cache: str | None = field(
        default=None, metadata={"help": "Folder for tokenised corpora. Default: $SLM_CACHE or ~/.cache/slm."}
    )
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Tokenisation processes. Default: chosen by the size of the corpus."}
    )

    def __post_init__(self) -> None:
        slm_data.as_packing(self.packing)  # by attribute: importing the name would import numpy for --help
        if self.block_size is not None and self.block_size < 2:
            raise TrainError(f"--block_size {self.block_size} leaves nothing to predict; use 2 or more")
        if not 0 <= self.packing_fill <= 1:
            raise TrainError(f"--packing_fill {self.packing_fill} must be from 0 to 1")
        if self.max_eval_tokens < 0:
            raise TrainError(f"--max_eval_tokens {self.max_eval_tokens} must not be below 0; use 0 for all")


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
            "each on the run's own rows, and train with the best."
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


@dataclass(frozen=True)
class BudgetOptions:
    """Options of the token-budget loop, ``slm-train dynamic``."""

    target_tokens_per_step: int = field(
        default=4096, metadata={"help": "Predicted tokens of an optimizer step, over all processes."}
    )
    max_tokens_per_micro_batch: int = field(
        default=2048, metadata={"help": "Upper bound on the tokens of a micro-batch, padding included; bounds memory."}
    )
    log_interval: int = field(default=10, metadata={"help": "Steps between log lines."})
    eval_interval: int = field(default=0, metadata={"help": "Steps between evaluations during training; 0 for none."})
    checkpoint_interval: int = field(default=1, metadata={"help": "Steps between checkpoints."})
    schedule_in: str = field(default="steps", metadata={"help": "Unit of the learning-rate schedule: steps or tokens."})
    pad_to_multiple_of: int | None = field(
        default=None,
        metadata={
            "help": "Pad micro-batches to a multiple of this length, so that few lengths occur. Default: "
            f"{COMPILED_LENGTH_MULTIPLE} with --torch_compile, else 1."
        },
    )

    def __post_init__(self) -> None:
        for name in ("log_interval", "checkpoint_interval", "pad_to_multiple_of"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TrainError(f"--{name} {value} must be at least 1")
        if self.eval_interval < 0:
            raise TrainError(f"--eval_interval {self.eval_interval} must not be below 0; use 0 for no evaluations")
        if self.schedule_in not in ("steps", "tokens"):
            raise TrainError(f"--schedule_in {self.schedule_in!r}: choose from steps, tokens")

    def length_multiple(self, compiled: bool) -> int:
        """Return what the lengths of micro-batches are rounded up to."""
        return self.pad_to_multiple_of or (COMPILED_LENGTH_MULTIPLE if compiled else 1)
