"""Files are identified by their content, and must not change while they are read."""

import gzip
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_data.errors import DataError
from slm_data.sources import content
from slm_data.sources.content import identify, open_verified
from slm_data.sources.corpus import load_corpus
from slm_data.sources.decoding import text_decoding
from slm_data.sources.options import SourceOptions
from slm_data.sources.readers.settings import ReaderSettings
from slm_data.sources.reading import read_records

TEXTS = [f"Text {number}." for number in range(3000)]
OTHERS = [f"Next {number}." for number in range(3000)]  # of equal lengths


def write(path: Path, texts: list[str]) -> None:
    match path.name.split(".", 1)[1]:
        case "txt":
            path.write_text("\n\n".join(texts))
        case "txt.gz":
            # Uncompressed blocks, so that other texts have the same size.
            path.write_bytes(gzip.compress("\n\n".join(texts).encode(), compresslevel=0, mtime=0))
        case "jsonl":
            path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
        case "json":
            path.write_text(json.dumps(texts))
        case "csv":
            path.write_text("text\n" + "\n".join(texts))
        case "parquet":
            pq.write_table(pa.table({"text": texts}), path, compression="none", use_dictionary=False, row_group_size=50)
        case "arrow":
            table = pa.table({"text": texts})
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=50)


NAMES = ["a.txt", "a.txt.gz", "a.jsonl", "a.json", "a.csv", "a.parquet", "a.arrow"]


@pytest.fixture(params=NAMES)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / str(request.param)
    write(path, TEXTS)
    return path


def identity(*paths: Path, **options: Any) -> tuple[str, str]:
    corpus = load_corpus(SourceOptions(train_file=[str(path) for path in paths], **options))
    return corpus.train.identity, corpus.validation.identity


def replace_in_place(path: Path) -> None:
    """Write other texts with the same size and modification time."""
    before = path.stat()
    write(path, OTHERS)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_touching_moving_and_renaming_change_nothing(file: Path, tmp_path: Path) -> None:
    before = identity(file)
    os.utime(file, (1, 1))
    assert identity(file) == before
    (tmp_path / "other").mkdir()
    moved = tmp_path / "other" / file.name.replace("a.", "renamed.")
    shutil.move(file, moved)
    assert identity(moved) == before


def test_other_content_of_the_same_name_size_and_time_is_detected(file: Path) -> None:
    before = identity(file)
    replace_in_place(file)
    assert not {*identity(file)} & {*before}


def test_the_same_content_read_in_another_way_is_something_else(tmp_path: Path) -> None:
    for name in ("a.txt", "a.md"):
        (tmp_path / name).write_text("one\n\ntwo")
    assert identify(tmp_path / "a.txt").identity != identify(tmp_path / "a.md").identity
    shutil.copy(tmp_path / "a.md", tmp_path / "a.py")
    assert identify(tmp_path / "a.md").identity == identify(tmp_path / "a.py").identity


def test_the_order_of_files_matters_only_where_it_is_that_of_the_documents(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text(f"one of {name}\n\ntwo of {name}")
    a, b, c = (tmp_path / name for name in ("a.txt", "b.txt", "c.txt"))
    assert identity(a, b) == identity(a, b, a) != identity(b, a)
    assert identity(tmp_path) == identity(tmp_path / "*.txt") == identity(a, b, c)
    c.rename(tmp_path / "0.txt")
    assert identity(tmp_path) == identity(tmp_path / "0.txt", a, b) != identity(a, b, tmp_path / "0.txt")


def test_a_file_that_is_replaced_before_it_is_read_is_refused(file: Path) -> None:
    corpus = load_corpus(SourceOptions(train_file=[str(file)]))
    replace_in_place(file)
    for documents in (corpus.train, corpus.validation):
        with pytest.raises(DataError, match=r"a\..* changed while it was being read; start again"):
            next(iter(documents))


def test_a_file_that_is_touched_or_moved_back_before_it_is_read_is_the_same(file: Path) -> None:
    corpus = load_corpus(SourceOptions(train_file=[str(file)]))
    copy = file.with_name("copy")
    shutil.copy(file, copy)
    copy.replace(file)
    assert len(list(corpus.train)) + len(list(corpus.validation)) == len(TEXTS)


@pytest.mark.parametrize("limit", [None, 2000])
def test_a_file_that_changes_while_it_is_read_is_refused(
    file: Path, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_decoding, "CHUNK_BYTES", 1 << 10)
    monkeypatch.setattr(content, "BLOCK_BYTES", 1 << 10)
    corpus = load_corpus(SourceOptions(train_file=[str(file)], max_train_samples=limit))
    texts = iter(corpus.train)
    assert next(texts) == TEXTS[0]
    replace_in_place(file)
    with pytest.raises(DataError, match="changed while it was being read"):
        list(texts)


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write(path, TEXTS)
    records = read_records([identify(path)], ReaderSettings("\n\n"))
    next(records)
    with path.open("a") as out:
        out.write("\n\nOne more.")
    with pytest.raises(DataError, match="changed while it was being read"):
        list(records)


def test_a_fault_in_a_file_that_changed_is_explained_by_the_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_decoding, "CHUNK_BYTES", 1 << 10)
    path = tmp_path / "a.jsonl"
    write(path, TEXTS * 40)  # more than the buffer of the file
    records = read_records([identify(path)], ReaderSettings("\n\n"))
    next(records)
    path.write_bytes(b"x\n" * (path.stat().st_size // 2))
    with pytest.raises(DataError, match="changed while it was being read"):
        list(records)


def test_a_file_that_changes_while_it_is_hashed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write(path, TEXTS)
    hash_content = content._digest

    def hash_and_append(file: Any) -> str:
        with path.open("a") as out:
            out.write("more")
        return hash_content(file)

    monkeypatch.setattr(content, "_digest", hash_and_append)
    with pytest.raises(DataError, match="changed while it was being read"):
        identify(path)


@given(data=st.binary(max_size=50_000), reads=st.lists(st.integers(0, 20_000), max_size=8))
def test_the_hash_of_a_read_is_that_of_the_file_however_it_is_read(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, reads: list[int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.txt"
    path.write_bytes(data)
    with open_verified(identify(path)) as file:  # raises if the hash differs
        for size in reads:
            file.read(size)


def test_an_unreadable_file_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text")

    def denied(*_: object, **__: object) -> Iterator[bytes]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(DataError, match=r"cannot read .*a\.txt: Permission denied"):
        identify(path)
