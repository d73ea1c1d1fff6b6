"""``load_corpus``: from source options to training and validation texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from slm_data.errors import DataError
from slm_data.examples.types import Example
from slm_data.sample.built_in import BUILT_IN, TRAIN_SEED, VALIDATION_SEED
from slm_data.sources import holdout
from slm_data.sources.dataset_names import WIKITEXT, resolve_hub_name
from slm_data.sources.documents import Corpus, Documents
from slm_data.sources.files import files_identity, find_files, read_files
from slm_data.sources.options import SourceOptions
from slm_data.sources.wikitext import articles

# Part of every identity. Increase it when a change of a reader changes the texts of a source, so that older token
# stores are not reused.
READER_VERSION = 1

# Never "test": after choosing hyperparameters on a test split, figures on it would mean nothing.
VALIDATION_SPLITS = ("validation", "valid", "dev")


@dataclass(frozen=True)
class _Source:
    """A source whose validation texts may not have been held out yet."""

    name: str
    train: Documents
    validation: Documents | None = None
    notes: tuple[str, ...] = ()


def load_corpus(options: SourceOptions) -> Corpus:
    """Open the texts that ``options`` select; the built-in sample if they select none.

    Reading is lazy: of each file only the first document is read here.

    Raises:
        DataError: A source is missing, unreadable, or has too few documents for a validation split.
    """
    # Each pattern is expanded only once, so that the files that are checked are those that are read.
    train_paths = find_files(options.train_file, "train_file")
    validation_paths = find_files(options.validation_file, "validation_file")
    _check_disjoint(train_paths, validation_paths)
    source = _file_source(train_paths, options) if train_paths else _named_source(options)
    if validation_paths:
        source = replace(source, validation=_file_documents(validation_paths, options))
    corpus = _with_validation(source, options)
    return replace(
        corpus,
        train=_truncated(corpus.train, options.max_train_samples),
        validation=_truncated(corpus.validation, options.max_eval_samples),
        notes=(*corpus.notes, *_ignored_settings(options)),
    )


def _ignored_settings(options: SourceOptions) -> Iterator[str]:
    is_hub = options.dataset is not None and options.dataset.lower() not in BUILT_IN
    files = (*options.train_file, *options.validation_file)
    if options.streaming and not is_hub:
        yield "--streaming is ignored: files and built-in texts are always streamed"
    if options.text_column and not is_hub and all(file.lower().endswith(".txt") for file in files):
        yield f"--text_column {options.text_column} is ignored: these texts have no columns"


def _check_disjoint(train_paths: Sequence[Path], validation_paths: Sequence[Path]) -> None:
    shared = {path.resolve() for path in train_paths} & {path.resolve() for path in validation_paths}
    if shared:
        raise DataError(f"{min(shared)} matches both --train_file and --validation_file; remove it from one of them")


def _named_source(options: SourceOptions) -> _Source:
    name = options.dataset or "sample"
    if name.lower() in BUILT_IN:
        return _built_in_source(name.lower(), options)
    return _hub_source(name, resolve_hub_name(name), options)


def _built_in_source(name: str, options: SourceOptions) -> _Source:
    grammar = BUILT_IN[name]

    def documents(split: str, count: int, seed: int) -> Documents:
        identity = json.dumps([name, grammar.version, seed, count])
        return Documents(f"{name} {split}", identity, partial(grammar.stories, count, seed))

    train = documents("train", options.max_train_samples or grammar.train_stories, TRAIN_SEED)
    validation_count = options.max_eval_samples or grammar.validation_stories
    return _Source(name, train, documents("validation", validation_count, VALIDATION_SEED))


def _file_source(paths: Sequence[Path], options: SourceOptions) -> _Source:
    train = _file_documents(paths, options)
    return _Source(train.name, train)


def _file_documents(paths: Sequence[Path], options: SourceOptions) -> Documents:
    for path in paths:
        # Read one document of every file, so that a wrong column or encoding is reported before training starts.
        next(read_files([path], options), None)
    names = ", ".join(path.name for path in paths[:3])
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    identity = ["files", READER_VERSION, files_identity(paths), options.text_column, options.separator]
    return Documents(names + more, json.dumps(identity), partial(read_files, paths, options))


def _hub_source(name: str, repo: str, options: SourceOptions) -> _Source:
    # Imported here, because the datasets library takes seconds to import and files and the sample do not need it.
    from slm_data.sources.hub import open_dataset

    dataset = open_dataset(repo, streaming=options.streaming)

    def documents(split: str) -> Documents:
        column = dataset.text_column(split, options.text_column)
        read = partial(dataset.texts, split, column)
        if repo.startswith(WIKITEXT + ":"):
            read = partial(_read_articles, read)
        identity = json.dumps(["hub", READER_VERSION, dataset.identity, split, column])
        return Documents(f"{name} {split}", identity, read)

    if "train" not in dataset.splits:
        raise DataError(
            f"the dataset {repo} has no split 'train', only {', '.join(dataset.splits)}; "
            "choose another dataset, or use --train_file"
        )
    validation = next((split for split in VALIDATION_SPLITS if split in dataset.splits), None)
    return _Source(name, documents("train"), documents(validation) if validation else None, dataset.notes)


def _read_articles(read_rows: Callable[[], Iterator[str]]) -> Iterator[str]:
    return articles(read_rows())


def _with_validation(source: _Source, options: SourceOptions) -> Corpus:
    """Return the texts of ``source``; without validation texts, a part of the training texts is held out."""
    if source.validation is not None:
        return Corpus(source.name, source.train, source.validation, source.notes)
    window, seed = options.holdout_window, options.split_seed
    count = sum(1 for _ in islice(source.train, window))
    if holdout.is_too_small(count, window, seed):
        raise DataError(_too_small_message(source.name, count, window, options))
    note = f"no validation split in {source.name}: one document in {window} (seed {seed}) is held out"
    train = _split_part(source.train, "train", holdout.training_texts, window, seed)
    validation = _split_part(source.train, "validation", holdout.validation_texts, window, seed)
    return Corpus(source.name, train, validation, (*source.notes, note))


def _too_small_message(name: str, count: int, window: int, options: SourceOptions) -> str:
    is_txt = any(file.lower().endswith(".txt") for file in options.train_file)
    separator = f" (separated by --document_separator {options.document_separator!r})" if is_txt else ""
    return (
        f"{name} has {count} document{'' if count == 1 else 's'}{separator}, too few to hold out one "
        f"in {window} for validation; increase --validation_fraction (up to 0.5) or give a --validation_file"
    )


def _split_part(
    whole: Documents, part: str, select: Callable[[Documents, int, int], Iterator[Example]], window: int, seed: int
) -> Documents:
    identity = json.dumps([whole.identity, part, window, seed])
    return Documents(f"{whole.name} ({part} part)", identity, partial(select, whole, window, seed))


def _truncated(documents: Documents, count: int | None) -> Documents:
    if count is None:
        return documents
    identity = json.dumps([documents.identity, "first", count])
    return replace(documents, identity=identity, read=lambda: islice(iter(documents), count))
