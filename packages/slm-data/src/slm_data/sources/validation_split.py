"""Holding out a part of the training texts for validation, and limits on the number of documents."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from slm_data.errors import DataError
from slm_data.examples.types import Example
from slm_data.sources.content import SourceFile, check_unchanged
from slm_data.sources.documents import Corpus, Documents
from slm_data.sources.holdout import cut_end, mark_documents, mark_end
from slm_data.sources.options import SourceOptions

# Yields each example, or part of one, and whether it is held out.
Mark = Callable[[Iterable[Example]], Iterator[tuple[Example, bool]]]


def hold_out(name: str, whole: Documents, options: SourceOptions, files: Sequence[SourceFile]) -> Corpus:
    """Return a corpus whose validation texts are a part of ``whole``: some documents, or the end of the only one.

    Args:
        name: Of the source, for messages.
        whole: All documents.
        options: The share of the validation texts, and the limits.
        files: What ``whole`` is read from.

    Raises:
        DataError: There is no text, or a single one that cannot be divided.
    """
    first = list(islice(whole, options.holdout_window))
    if not first:
        raise DataError(f"{name} contains no text; choose another source")
    # Of fewer documents than one window, one is held out all the same.
    window, seed = min(options.holdout_window, len(first)), options.split_seed
    if len(first) > 1:
        mark: Mark = partial(mark_documents, window=window, seed=seed)
        setting: list[object] = [window, seed]
        note = f"no validation split in {name}: one document in {window} (seed {seed}) is held out"
    else:
        window = options.holdout_window
        if cut_end(first[0], window) is None:
            raise DataError(_too_small_message(name, options))
        mark, setting = partial(mark_end, window=window), ["end", window]
        note = f"{name} has 1 document{_separated(options)}: the last {1 / window:.0%} of its text is held out"
    parts = [_part(whole, is_held_out, mark, setting) for is_held_out in (False, True)]
    limits = (options.max_train_samples, options.max_eval_samples)
    return Corpus(name, parts[0], parts[1], (note,), partial(_read_both, whole, mark, limits, files))


def truncate(documents: Documents, count: int | None, files: Sequence[SourceFile]) -> Documents:
    """Return the first ``count`` documents, which are read from ``files``; all if it is None."""
    if count is None:
        return documents
    identity = json.dumps([documents.identity, "first", count])
    return replace(documents, identity=identity, read=partial(_first, documents, count, files))


def _part(whole: Documents, is_held_out: bool, mark: Mark, setting: list[object]) -> Documents:
    part = "validation" if is_held_out else "train"
    identity = json.dumps([whole.identity, part, *setting])
    read = partial(_read_part, whole, is_held_out, mark)
    return replace(whole, name=f"{whole.name} ({part} part)", identity=identity, read=read)


def _read_part(whole: Documents, is_held_out: bool, mark: Mark) -> Iterator[Example]:
    return (example for example, is_of_validation in mark(whole) if is_of_validation == is_held_out)


def _read_both(
    whole: Documents, mark: Mark, limits: tuple[int | None, int | None], files: Sequence[SourceFile]
) -> Iterator[tuple[Example, bool]]:
    """Yield the examples of both parts up to their limits, and whether each is held out."""
    left = [sys.maxsize if limit is None else limit for limit in limits]
    for example, is_held_out in mark(whole):
        if left[is_held_out]:
            left[is_held_out] -= 1
            yield example, is_held_out
        if not any(left):
            break
    _check_unchanged(files)


def _first(documents: Documents, count: int, files: Sequence[SourceFile]) -> Iterator[Example]:
    yield from islice(documents, count)
    _check_unchanged(files)


def _check_unchanged(files: Sequence[SourceFile]) -> None:
    for file in files:  # a file that is not read to its end has not been verified by its reader
        check_unchanged(file)


def _separated(options: SourceOptions) -> str:
    is_txt = any(".txt" in Path(file).name.lower() for file in options.train_file)
    separator = options.document_separator.replace("\n", "\\n")  # as a user writes it, on one line
    return f" (separated by --document_separator '{separator}')" if is_txt else ""


def _too_small_message(name: str, options: SourceOptions) -> str:
    separated = _separated(options)
    return (
        f"{name} has 1 document{separated}, too short to hold out a part for validation; "
        f"add texts, or give a --validation_file{' or another separator' if separated else ''}"
    )
