"""Texts by name or by file: ``load_corpus`` turns the options into training and validation texts.

A document with nothing but white space in it is no document: it is passed over before any count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from slm_data import holdout
from slm_data.dataset_names import WIKITEXT, hub_name
from slm_data.errors import DataError
from slm_data.files import find_files, identity_of, read_files
from slm_data.options import SourceOptions
from slm_data.sample import corpus as sample
from slm_data.wikitext import articles

READING = 1  # raise it whenever the same source is read into other texts

VALIDATION_SPLITS = ("validation", "valid", "dev")  # never test: what is tuned on cannot judge


@dataclass(frozen=True)
class Documents:
    """Texts that can be read any number of times: always the same ones in the same order.

    ``identity`` changes whenever the texts do; ``name`` is for messages. Reading raises DataError
    for what is wrong in the source.
    """

    name: str
    identity: str
    read: Callable[[], Iterator[str]]

    def __iter__(self) -> Iterator[str]:
        return (text for text in self.read() if text and not text.isspace())


@dataclass(frozen=True)
class Corpus:
    """Training and validation texts. ``notes`` are for the user, a line each."""

    name: str
    train: Documents
    validation: Documents
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source:
    name: str
    train: Documents
    validation: Documents | None = None
    notes: tuple[str, ...] = ()


def load_corpus(options: SourceOptions) -> Corpus:
    """The texts that ``options`` name; the built-in sample if they name none.

    Raises DataError for what cannot be found or read. Files and rows further on are not looked at
    before they are reached.
    """
    source = _files(options) if options.train_file else _named(options)
    if options.validation_file:
        source = replace(source, validation=_file_documents(options, "validation_file"))
    corpus = _complete(source, options)
    return replace(
        corpus,
        train=_first(corpus.train, options.max_train_samples),
        validation=_first(corpus.validation, options.max_eval_samples),
        notes=(*corpus.notes, *_ignored(options)),
    )


def _ignored(options: SourceOptions) -> Iterator[str]:
    is_hub = options.dataset is not None and options.dataset.lower() != "sample"
    files = (*options.train_file, *options.validation_file)
    if options.streaming and not is_hub:
        yield "--streaming changes nothing here: files and the sample are never held whole"
    if options.text_column and not is_hub and all(file.lower().endswith(".txt") for file in files):
        yield f"--text_column {options.text_column} changes nothing here: these texts have no columns"


def _named(options: SourceOptions) -> _Source:
    name = options.dataset or "sample"
    if name.lower() == "sample":
        return _sample(options)
    return _hub(name, hub_name(name), options)


def _sample(options: SourceOptions) -> _Source:
    def documents(split: str, count: int, seed: int) -> Documents:
        identity = json.dumps(["sample", sample.CORPUS_VERSION, seed, count])
        return Documents(f"sample {split}", identity, partial(sample.stories, count, seed))

    train = documents("train", options.max_train_samples or sample.TRAIN_STORIES, sample.TRAIN_SEED)
    stories = options.max_eval_samples or sample.VALIDATION_STORIES
    return _Source("sample", train, documents("validation", stories, sample.VALIDATION_SEED))


def _files(options: SourceOptions) -> _Source:
    train = _file_documents(options, "train_file")
    if both := _found(options, "train_file") & _found(options, "validation_file"):
        raise DataError(f"{min(both)} is named by --train_file and by --validation_file; leave it out of one")
    return _Source(train.name, train)


def _found(options: SourceOptions, flag: str) -> set[Path]:
    return {path.resolve() for path in find_files(getattr(options, flag), flag)}


def _file_documents(options: SourceOptions, flag: str) -> Documents:
    paths = find_files(getattr(options, flag), flag)
    for path in paths:
        next(read_files([path], options), None)  # a wrong column or kind is told now, not hours later
    names = ", ".join(path.name for path in paths[:3])
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    identity = json.dumps(["files", READING, identity_of(paths), options.text_column, options.separator])
    return Documents(names + more, identity, partial(read_files, paths, options))


def _hub(name: str, repo: str, options: SourceOptions) -> _Source:
    # The datasets library takes seconds to import; files and the sample do without it.
    from slm_data.hub import open_dataset

    dataset = open_dataset(repo, streaming=options.streaming)

    def documents(split: str) -> Documents:
        column = dataset.text_column(split, options.text_column)
        read = partial(dataset.texts, split, column)
        if repo.startswith(WIKITEXT + ":"):
            read = partial(_articles, read)
        identity = json.dumps(["hub", READING, dataset.identity, split, column])
        return Documents(f"{name} {split}", identity, read)

    if "train" not in dataset.splits:
        raise DataError(
            f"the dataset {repo} has no split 'train', only {', '.join(dataset.splits)}; "
            "pick another dataset, or use --train_file"
        )
    validation = next((split for split in VALIDATION_SPLITS if split in dataset.splits), None)
    return _Source(name, documents("train"), documents(validation) if validation else None, dataset.notes)


def _articles(rows: Callable[[], Iterator[str]]) -> Iterator[str]:
    return articles(rows())


def _complete(source: _Source, options: SourceOptions) -> Corpus:
    if source.validation is not None:
        return Corpus(source.name, source.train, source.validation, source.notes)
    window, seed = options.holdout_window, options.split_seed
    count = sum(1 for _ in islice(source.train, window))
    if holdout.too_few(count, window, seed):
        raise DataError(_too_few(source.name, count, window, options))
    note = f"no validation split in {source.name}: one document in {window} (seed {seed}) is held out"
    train = _part(source.train, "train", holdout.kept, window, seed)
    validation = _part(source.train, "validation", holdout.held_out, window, seed)
    return Corpus(source.name, train, validation, (*source.notes, note))


def _too_few(name: str, count: int, window: int, options: SourceOptions) -> str:
    is_txt = any(file.lower().endswith(".txt") for file in options.train_file)
    parted = f" (parted by --document_separator {options.document_separator!r})" if is_txt else ""
    return (
        f"{name} holds {count} document{'' if count == 1 else 's'}{parted}, too few to hold out one "
        f"in {window} for validation; raise --validation_fraction (up to 0.5) or name a --validation_file"
    )


def _part(
    whole: Documents, part: str, rule: Callable[[Documents, int, int], Iterator[str]], window: int, seed: int
) -> Documents:
    identity = json.dumps([whole.identity, part, window, seed])
    return Documents(f"{whole.name} ({part} part)", identity, partial(rule, whole, window, seed))


def _first(documents: Documents, count: int | None) -> Documents:
    if count is None:
        return documents
    identity = json.dumps([documents.identity, "first", count])
    return replace(documents, identity=identity, read=lambda: islice(iter(documents), count))
