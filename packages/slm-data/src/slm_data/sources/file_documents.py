"""The user's own files as training and validation documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from slm_data.errors import DataError
from slm_data.examples.data_formats import DataFormat
from slm_data.sources.content import SourceFile, identify
from slm_data.sources.documents import Documents
from slm_data.sources.file_formats import KINDS_WITHOUT_COLUMNS
from slm_data.sources.files import find_files
from slm_data.sources.options import SourceOptions
from slm_data.sources.readers.settings import ReaderSettings
from slm_data.sources.reading import read_records
from slm_data.sources.record_examples import choose_format, examples_of, needed_columns

# Part of every identity. Increase it when a change of a reader changes the texts of a source, so that older token
# stores are not reused.
READER_VERSION = 2

MAX_NAMES = 3  # of files in the name of documents


@dataclass(frozen=True)
class OwnFiles:
    """Files to train and to evaluate on, hashed; ``notes`` are one-line messages for the user."""

    train: tuple[SourceFile, ...]
    validation: tuple[SourceFile, ...]
    notes: tuple[str, ...]

    @property
    def kinds(self) -> set[str]:
        return {file.kind for file in (*self.train, *self.validation)}


def open_files(options: SourceOptions) -> OwnFiles:
    """Find and hash the files of ``options``. Raises DataError for any that cannot be used."""
    # Each pattern is expanded only once, so that the files that are checked are those that are read.
    train = find_files(options.train_file, "train_file")
    validation = find_files(options.validation_file, "validation_file")
    files = OwnFiles(
        tuple(identify(path) for path in train.paths),
        tuple(identify(path) for path in validation.paths or train.validation),
        (*train.notes, *validation.notes),
    )
    _check_disjoint(files)
    return files


def file_documents(files: Sequence[SourceFile], options: SourceOptions) -> Documents:
    """Return the documents of files. Raises DataError for a fault in the first document of any of them."""
    first = next(read_records(files, ReaderSettings(options.separator)), None)
    data_format = choose_format(first.value if first else "", options)
    settings = ReaderSettings(options.separator, needed_columns(data_format, options))
    for file in files:
        # Read one document of every file, so that a wrong column or encoding is reported before training starts.
        next(examples_of(partial(read_records, [file], settings), data_format, options), None)
    names = ", ".join(file.path.name for file in files[:MAX_NAMES])
    more = f" and {len(files) - MAX_NAMES} more" if len(files) > MAX_NAMES else ""
    read = partial(examples_of, partial(read_records, files, settings), data_format, options)
    return Documents(names + more, _identity(files, settings, data_format), read, data_format)


def _identity(files: Sequence[SourceFile], settings: ReaderSettings, data_format: DataFormat) -> str:
    """Return the hashes of the files, and those settings that change what is read from them."""
    kinds = {file.kind for file in files}
    columns = None if kinds <= set(KINDS_WITHOUT_COLUMNS) else settings.columns
    separator = settings.separator if "txt" in kinds else None
    return json.dumps(["files", READER_VERSION, [file.identity for file in files], data_format, columns, separator])


def _check_disjoint(files: OwnFiles) -> None:
    shared = {file.path.resolve() for file in files.train} & {file.path.resolve() for file in files.validation}
    if shared:
        raise DataError(f"{min(shared)} matches both --train_file and --validation_file; remove it from one of them")
    # Not single documents: projects contain many equal licences and empty modules.
    trained = {file.digest: file.path for file in files.train if file.kind != "document"}
    for file in files.validation:
        if file.digest in trained:
            raise DataError(
                f"{trained[file.digest]} and {file.path} have the same content, but one is to train on "
                "and the other to evaluate on; remove one of them"
            )
