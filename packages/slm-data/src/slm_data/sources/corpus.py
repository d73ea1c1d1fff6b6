"""``load_corpus``: from source options to training and validation texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from slm_data.errors import DataError
from slm_data.examples.types import Example
from slm_data.sample.built_in import BUILT_IN, TRAIN_SEED, VALIDATION_SEED
from slm_data.sources.content import SourceFile
from slm_data.sources.documents import Corpus, Documents
from slm_data.sources.file_documents import READER_VERSION, file_documents, open_files
from slm_data.sources.file_formats import KINDS_WITHOUT_COLUMNS
from slm_data.sources.holdout import VALIDATION_SPLITS
from slm_data.sources.hub.dataset_names import WIKITEXT, resolve_hub_name
from slm_data.sources.options import DEFAULT_SEPARATOR, SourceOptions
from slm_data.sources.record_examples import choose_format, examples_of, needed_columns
from slm_data.sources.validation_split import hold_out, truncate
from slm_data.sources.wikitext import articles


@dataclass(frozen=True)
class _Source:
    """A source whose validation texts may not have been held out yet."""

    name: str
    train: Documents
    validation: Documents | None = None
    notes: tuple[str, ...] = ()


def load_corpus(options: SourceOptions) -> Corpus:
    """Open the texts that ``options`` select; the built-in sample if they select none.

    Files are hashed here, which identifies their content; of their documents only the first of each file is read.

    Raises:
        DataError: A source is missing, unreadable, or has too few documents for a validation split.
    """
    files = open_files(options)
    source = _file_source(files.train, options) if files.train else _named_source(options)
    if files.validation:
        source = replace(source, validation=file_documents(files.validation, options))
    if source.validation is None:
        corpus = hold_out(source.name, source.train, options, files.train)
    else:
        corpus = Corpus(source.name, source.train, source.validation)
    _check_formats(corpus)
    return replace(
        corpus,
        train=truncate(corpus.train, options.max_train_samples, files.train),
        validation=truncate(corpus.validation, options.max_eval_samples, files.validation or files.train),
        notes=(*files.notes, *source.notes, *corpus.notes, *_ignored_settings(options, files.kinds)),
    )


def _check_formats(corpus: Corpus) -> None:
    """Raise DataError for, say, conversations to train on and texts to evaluate on: their losses mean other things."""
    train, validation = corpus.train, corpus.validation
    if train.data_format != validation.data_format:
        raise DataError(
            f"{train.name} has the format {train.data_format} and {validation.name} the format "
            f"{validation.data_format}; use files of one format, or name it with --data_format"
        )


def _ignored_settings(options: SourceOptions, kinds: set[str]) -> Iterator[str]:
    is_hub = options.dataset is not None and options.dataset.lower() not in BUILT_IN
    if options.streaming and not is_hub:
        yield "--streaming is ignored: files and built-in texts are always streamed"
    if options.text_column and not is_hub and kinds <= set(KINDS_WITHOUT_COLUMNS):
        yield f"--text_column {options.text_column} is ignored: these texts have no columns"
    if options.document_separator != DEFAULT_SEPARATOR and "txt" not in kinds:
        yield f"--document_separator {options.document_separator!r} is ignored: there is no .txt file"


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


def _file_source(files: Sequence[SourceFile], options: SourceOptions) -> _Source:
    train = file_documents(files, options)
    return _Source(train.name, train)


def _hub_source(name: str, repo: str, options: SourceOptions) -> _Source:
    # Imported here, because the datasets library takes seconds to import and files and the sample do not need it.
    from slm_data.sources.hub.access import open_dataset

    dataset = open_dataset(repo, streaming=options.streaming)

    def documents(split: str) -> Documents:
        data_format = choose_format(dataset.columns(split), options)
        if data_format == "text":
            dataset.check_text_column(split, options.text_column)
        needed = needed_columns(data_format, options)
        read = partial(examples_of, partial(dataset.records, split, needed), data_format, options)
        if repo.startswith(WIKITEXT + ":"):
            read = partial(_read_articles, read)
        identity = json.dumps(["hub", READER_VERSION, dataset.identity, split, data_format, needed])
        return Documents(f"{name} {split}", identity, read, data_format)

    if "train" not in dataset.splits:
        raise DataError(
            f"the dataset {repo} has no split 'train', only {', '.join(dataset.splits)}; "
            "choose another dataset, or use --train_file"
        )
    validation = next((split for split in VALIDATION_SPLITS if split in dataset.splits), None)
    return _Source(name, documents("train"), documents(validation) if validation else None, dataset.notes)


def _read_articles(read_rows: Callable[[], Iterator[Example]]) -> Iterator[Example]:
    return articles(str(row) for row in read_rows())
