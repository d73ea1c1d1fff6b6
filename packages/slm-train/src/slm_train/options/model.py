"""Options of the base model and its adapter."""

from __future__ import annotations

from dataclasses import dataclass, field

from slm_adapters import ButterflySettings, OftSettings
from slm_train.errors import TrainError, did_you_mean

MODES = ("baseline", "lora", "qlora", "butterfly", "butterfly_block", "oft")  # the last to compare with
BUTTERFLY_MODES = ("butterfly", "butterfly_block")


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
