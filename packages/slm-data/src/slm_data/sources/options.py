"""``SourceOptions``: which texts to load (hub dataset, files or the built-in sample), and how many."""

from __future__ import annotations

from dataclasses import dataclass, field

from slm_data.errors import DataError
from slm_data.examples.columns import read_columns
from slm_data.examples.data_formats import as_data_format
from slm_data.sources.file_formats import name_of_source

DEFAULT_SEPARATOR = "\\n\\n"
MAX_VALIDATION_FRACTION = 0.5  # above one half there would be more validation than training texts


@dataclass(frozen=True)
class SourceOptions:
    """The source of the texts, and how many of them to use. Raises DataError for invalid or conflicting settings."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "a dataset by name: tinystories, wikitext2, sample or harbour (both built in), or "
            "owner/name[:config] on the hub"
        },
    )
    train_file: list[str] = field(
        default_factory=list,
        metadata={
            "help": "own files to train on: .txt, .jsonl, .json, .csv, .tsv, .parquet, .arrow, .md, source code, each "
            "also as .gz or .zst; paths, globs or folders"
        },
    )
    validation_file: list[str] = field(
        default_factory=list,
        metadata={"help": "own files to evaluate on, instead of any other validation texts"},
    )
    data_format: str = field(
        default="auto",
        metadata={
            "help": "what the rows are: text, messages (conversations), prompt_completion or instruction (default: "
            "auto, decided by the columns of the first row)"
        },
    )
    columns: list[str] = field(
        default_factory=list,
        metadata={
            "help": "names of the columns that contain messages, prompt, completion, instruction, input, output or "
            "system, for example prompt=question completion=answer"
        },
    )
    text_column: str | None = field(
        default=None,
        metadata={
            "help": "the column that contains the text (default: 'text'); data.text is 'text' within the column 'data'"
        },
    )
    document_separator: str = field(
        default=DEFAULT_SEPARATOR,
        metadata={
            "help": r"what separates the documents of a .txt file; \n and \t are escapes, so \n makes "
            r"every line a document (default: a blank line, \n\n)"
        },
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={"help": "train on the first N documents only; the rest is not tokenised"},
    )
    max_eval_samples: int | None = field(
        default=None,
        metadata={"help": "evaluate on the first N documents only; the rest is not tokenised"},
    )
    validation_fraction: float = field(
        default=0.05,
        metadata={"help": "the fraction of documents held out if a source has no validation split"},
    )
    split_seed: int = field(default=0, metadata={"help": "the seed that selects the held-out documents"})
    streaming: bool = field(
        default=False,
        metadata={"help": "read a hub dataset over the network, without a copy on disk"},
    )

    def __post_init__(self) -> None:
        self._check_sources()
        self._check_counts()
        as_data_format(self.data_format)
        read_columns(self.columns)

    @property
    def separator(self) -> str:
        """``document_separator`` with escapes resolved and newlines normalised, as the reader sees them."""
        plain = self.document_separator.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r")
        return plain.replace("\r\n", "\n")

    @property
    def short_name(self) -> str:
        """A name for folders of runs: that of the dataset, or of the first file or folder without its suffixes."""
        return self.dataset or name_of_source(self.train_file[0])

    @property
    def holdout_window(self) -> int:
        """The number of documents of which one is held out for validation."""
        return round(1 / self.validation_fraction)

    def _check_sources(self) -> None:
        if self.dataset is not None and self.train_file:
            raise DataError(f"--dataset {self.dataset} and --train_file both name training texts; use only one of them")
        if self.validation_file and self.dataset is None and not self.train_file:
            raise DataError("--validation_file needs texts to train on; add --train_file or --dataset")
        if not self.document_separator:
            raise DataError(r"--document_separator is empty; use \n to make every line a document")

    def _check_counts(self) -> None:
        for flag in ("max_train_samples", "max_eval_samples"):
            count = getattr(self, flag)
            if count is not None and count < 1:
                raise DataError(f"--{flag} {count} leaves no text; use 1 or more, or omit it to use all")
        if not 0 < self.validation_fraction <= MAX_VALIDATION_FRACTION:
            raise DataError(
                f"--validation_fraction {self.validation_fraction} must be above 0 and at most "
                f"{MAX_VALIDATION_FRACTION}; 0.05 holds out one document in 20"
            )
