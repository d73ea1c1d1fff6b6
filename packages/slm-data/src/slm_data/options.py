"""What texts to read: one set of flags for the hub, the user's files and the built-in sample."""

from __future__ import annotations

from dataclasses import dataclass, field

from slm_data.errors import DataError

LARGEST_FRACTION = 0.5  # at one half the training and the validation texts are as many


@dataclass(frozen=True)
class SourceOptions:
    """Where texts come from, and how many of them. Raises DataError for settings that cannot be."""

    dataset: str | None = field(
        default=None,
        metadata={"help": "one of tinystories, wikitext2, sample (built in), or owner/name[:config] of the hub"},
    )
    train_file: list[str] = field(
        default_factory=list,
        metadata={"help": "own files to train on: .txt, .jsonl, .csv, .parquet; paths or globs"},
    )
    validation_file: list[str] = field(
        default_factory=list,
        metadata={"help": "own files to evaluate on, in place of any other validation texts"},
    )
    text_column: str | None = field(
        default=None,
        metadata={"help": "the column that holds the text; 'text' if not given"},
    )
    document_separator: str = field(
        default="\\n\\n",
        metadata={
            "help": r"what parts the documents of a .txt file; \n and \t are understood, so \n makes "
            r"every line a document; a blank line (\n\n) if not given"
        },
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={"help": "train on the first N documents only; cut before anything is tokenised"},
    )
    max_eval_samples: int | None = field(
        default=None,
        metadata={"help": "evaluate on the first N documents only; cut before anything is tokenised"},
    )
    validation_fraction: float = field(
        default=0.05,
        metadata={"help": "the share of documents held out where a source has no validation split"},
    )
    split_seed: int = field(default=0, metadata={"help": "the seed that draws the held-out documents"})
    streaming: bool = field(
        default=False,
        metadata={"help": "read a dataset of the hub over the network, without a copy on the disk"},
    )

    def __post_init__(self) -> None:
        self._check_sources()
        self._check_counts()

    @property
    def separator(self) -> str:
        """``document_separator`` with its escapes resolved, and newlines as the reader gives them."""
        plain = self.document_separator.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r")
        return plain.replace("\r\n", "\n")

    @property
    def holdout_window(self) -> int:
        """One document of this many is held out."""
        return round(1 / self.validation_fraction)

    def _check_sources(self) -> None:
        if self.dataset is not None and self.train_file:
            raise DataError(f"--dataset {self.dataset} and --train_file both name training texts; give one of them")
        if self.validation_file and self.dataset is None and not self.train_file:
            raise DataError("--validation_file needs texts to train on; add --train_file or --dataset")
        if not self.document_separator:
            raise DataError(r"--document_separator is empty; use \n for one document a line")

    def _check_counts(self) -> None:
        for flag in ("max_train_samples", "max_eval_samples"):
            count = getattr(self, flag)
            if count is not None and count < 1:
                raise DataError(f"--{flag} {count} leaves no text; use 1 or more, or leave it out for all")
        if not 0 < self.validation_fraction <= LARGEST_FRACTION:
            raise DataError(
                f"--validation_fraction {self.validation_fraction} is not above 0 and at most "
                f"{LARGEST_FRACTION}; 0.05 holds out one document in 20"
            )
