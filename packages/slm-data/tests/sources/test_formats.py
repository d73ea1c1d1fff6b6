"""Readers of the user's own files: their texts, refusals and memory."""

import csv
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_data.errors import DataError
from slm_data.sources import text_decoding
from slm_data.sources.files import read_files
from slm_data.sources.formats import read_txt
from slm_data.sources.options import SourceOptions

TEXTS = ["One.", 'Two\nlines, and "quotes".', "Drei größere Wörter 🦊.", "  kept  as it stands "]


def write_txt(path: Path, texts: list[str]) -> None:
    path.write_text("<|endoftext|>".join(texts))


def write_jsonl(path: Path, texts: list[str]) -> None:
    path.write_text("\n".join(json.dumps({"id": 1, "text": text}) for text in texts))


def write_csv(path: Path, texts: list[str]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *((1, text) for text in texts)])


def write_parquet(path: Path, texts: list[str]) -> None:
    pq.write_table(pa.table({"id": [1] * len(texts), "text": texts}), path)


WRITERS: dict[str, Callable[[Path, list[str]], None]] = {
    "a.txt": write_txt,
    "a.jsonl": write_jsonl,
    "a.json": write_jsonl,
    "a.csv": write_csv,
    "a.parquet": write_parquet,
    "A.CSV": write_csv,
}


def read(path: Path, **options: str) -> list[str]:
    return list(read_files([path], SourceOptions(train_file=[str(path)], **options)))  # type: ignore[arg-type]


def error(path: Path, content: bytes, **options: str) -> str:
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(path, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_back_the_texts_that_went_in(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, TEXTS)
    assert read(path, document_separator="<|endoftext|>") == TEXTS


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, TEXTS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(path, document_separator="<|endoftext|>") == TEXTS


@given(
    text=st.text("ab\né\r🦊=", max_size=60),
    separator=st.sampled_from(["\n\n", "\n", "==", "=a=", "🦊"]),
    chunk=st.integers(1, 12),
)
def test_documents_are_the_same_for_any_chunk_size(
    tmp_path_factory: pytest.TempPathFactory, text: str, separator: str, chunk: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "chunks.txt"
    path.write_bytes(text.encode())
    options = SourceOptions(train_file=["x.txt"], document_separator=separator)
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    expected = [document.strip("\n") for document in plain.split(separator)]
    assert list(read_txt(path, options, chunk)) == expected


def test_a_blank_line_separates_documents_in_unix_and_in_windows_files(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for newline in (b"\n", b"\r\n"):
        path.write_bytes(newline.join([b"one", b"more", b"", b"two", b""]))
        assert read(path) == ["one\nmore", "two"]


@pytest.mark.parametrize("escaped", ["\\n", "\n", "\\r\\n"])
def test_an_escaped_separator_is_the_character_itself(tmp_path: Path, escaped: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo")
    assert read(path, document_separator=escaped) == ["one", "two"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_a_large_file_streams_in_constant_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, ["A story of some length. " * 400] * 2_000)
    tracemalloc.start()
    options = SourceOptions(train_file=[str(path)], document_separator="<|endoftext|>")
    assert sum(1 for _ in read_files([path], options)) == 2_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 19e6
    assert peak < 8 * text_decoding.CHUNK_BYTES


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"fine\n\nbroken \xe4 here", ["line 3", "byte 13"]),
        ("a.txt", b"cut in a character \xc3", ["line 1", "byte 19"]),
        ("a.txt", b"\xef\xbb\xbfmarked \xff", ["line 1", "byte 10"]),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xe4"}\n', ["line 2", "byte 24"]),
        ("a.csv", b"text\nfine\nbr\xe4ken\n", ["line 3", "byte 12"]),
    ],
)
def test_invalid_utf8_is_reported_with_line_and_byte(
    tmp_path: Path, name: str, content: bytes, expected: list[str]
) -> None:
    message = error(tmp_path / name, content)
    assert all(words in message for words in (name, "UTF-8", "iconv", *expected)), message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"text": "a"}\n\n{"text": "b"\n', ["line 3", "broken JSON", "one object per line"]),
        (b'[\n{"text": "a"}\n]\n', ["line 1", "one object per line"]),
        (b'[{"text": "a"}]\n', ["line 1", "a JSON list", "jq"]),
        (b'{"text": "a"}\n{"story": "b", "id": 3}\n', ["line 2", "no column 'text'", "story, id"]),
        (b'{"text": 12.5}\n', ["line 1", "'text'", "float 12.5", "not text"]),
        (b'{"text": "\\ud83d"}\n', ["line 1", "surrogate"]),
        (b"[" * 100_000, ["line 1", "broken JSON"]),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_broken_json_line_is_reported_with_its_number(
    tmp_path: Path, name: str, content: bytes, expected: list[str]
) -> None:
    message = error(tmp_path / name, content)
    assert all(words in message for words in (name, *expected)), message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"id,story\n1,a\n", ["no column 'text'", "id, story", "--text_column"]),
        (b"id,text\n1,a\n2\n", ["line 3", "1 fields", "2"]),
        (b'text\n"never closed\n', ["line 2", "broken CSV"]),
        (b'text\n"closed" too soon\n', ["line 2", "broken CSV"]),
    ],
)
def test_a_broken_csv_is_reported_with_its_line(tmp_path: Path, content: bytes, expected: list[str]) -> None:
    message = error(tmp_path / "a.csv", content)
    assert all(words in message for words in ("a.csv", *expected)), message


def test_a_csv_field_may_be_long_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    long = "word " * 100_000
    path = tmp_path / "a.csv"
    path.write_text(f"text\n{long}\n\nshort\n")
    assert read(path) == [long, "short"]


def test_another_column_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"story": ["a", None], "stars": [1, 2]}), path)
    assert read(path, text_column="story") == ["a", ""]
    for column, expected in ((None, "story, stars"), ("plot", "story, stars"), ("stars", "int 1, not text")):
        with pytest.raises(DataError, match=expected):
            read(path, **({"text_column": column} if column else {}))


@pytest.mark.parametrize("left", [5, 200, -1])
def test_a_truncated_parquet_is_reported(tmp_path: Path, left: int) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, TEXTS * 100)
    message = error(path, path.read_bytes()[:left])
    assert all(words in message for words in ("a.parquet", "broken", "again")), message


def test_a_document_without_end_is_refused_before_memory_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_decoding, "MAX_LENGTH", 1 << 20)
    content = b"a line\n" * 300_000
    assert "--document_separator" in error(tmp_path / "a.txt", content, document_separator="<|x|>")
    assert "line 1" in error(tmp_path / "a.jsonl", content.replace(b"\n", b" "))
