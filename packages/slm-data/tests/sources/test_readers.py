"""Readers of the user's own files: what they yield, in every format, compression and encoding, and their memory."""

import csv
import gzip
import io
import json
import re
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_data.errors import DataError
from slm_data.sources.content import identify
from slm_data.sources.decoding import text_decoding
from slm_data.sources.readers.settings import ReaderSettings
from slm_data.sources.readers.text import read_txt
from slm_data.sources.reading import read_records
from slm_data.sources.text_column import text_of

TEXTS = ["One.", 'Two\nlines, and "quotes"\tand tabs.', "Drei größere Wörter 🦊.", "  kept  as it stands "]
SEPARATOR = "<|endoftext|>"


def as_txt(texts: Sequence[str]) -> bytes:
    return SEPARATOR.join(texts).encode()


def as_jsonl(texts: Sequence[str]) -> bytes:
    return "\n".join(json.dumps({"id": 1, "text": text}, ensure_ascii=False) for text in texts).encode()


def as_array(texts: Sequence[str]) -> bytes:
    return json.dumps([{"id": 1, "text": text} for text in texts], ensure_ascii=False).encode()


def as_string_array(texts: Sequence[str]) -> bytes:
    return json.dumps(texts, indent=1).encode()


def as_wrapped_array(texts: Sequence[str]) -> bytes:
    rows = [{"text": text} for text in texts]
    return json.dumps({"version": "1.1", "data": rows, "size": len(rows)}, indent=2).encode()


def as_csv(texts: Sequence[str], delimiter: str = ",") -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([("id", "text"), *((1, text) for text in texts)])
    return out.getvalue().encode()


def as_tsv(texts: Sequence[str]) -> bytes:
    return as_csv(texts, "\t")


def table(texts: Sequence[str]) -> Any:
    return pa.table({"id": pa.array([1] * len(texts)), "text": pa.array(texts, pa.string())})


def as_parquet(texts: Sequence[str]) -> bytes:
    out = io.BytesIO()
    pq.write_table(table(texts), out)
    return out.getvalue()


def as_arrow_file(texts: Sequence[str]) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_file(out, table(texts).schema) as writer:
        writer.write_table(table(texts), max_chunksize=2)
    return out.getvalue()


def as_arrow_stream(texts: Sequence[str]) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table(texts).schema) as writer:
        writer.write_table(table(texts), max_chunksize=2)
    return out.getvalue()


Encode = Callable[[Sequence[str]], bytes]
TEXT_FORMATS: list[tuple[str, Encode]] = [
    ("a.txt", as_txt),
    ("a.jsonl", as_jsonl),
    ("a.ndjson", as_jsonl),
    ("lines.json", as_jsonl),
    ("array.json", as_array),
    ("strings.json", as_string_array),
    ("wrapped.json", as_wrapped_array),
    ("A.CSV", as_csv),
    ("a.tsv", as_tsv),
]
BINARY_FORMATS: list[tuple[str, Encode]] = [
    ("a.parquet", as_parquet),
    ("file.arrow", as_arrow_file),
    ("stream.arrow", as_arrow_stream),
    ("a.feather", as_arrow_file),
]
FORMATS = TEXT_FORMATS + BINARY_FORMATS
ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "UTF-8": lambda content: content,
    "UTF-8 with mark": lambda content: b"\xef\xbb\xbf" + content,
    "UTF-16LE": lambda content: b"\xff\xfe" + content.decode().encode("utf-16-le"),
    "UTF-16BE": lambda content: b"\xfe\xff" + content.decode().encode("utf-16-be"),
}
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".zst": lambda content: bytes(pa.compress(content, codec="zstd", asbytes=True)),
    # Several compressed parts in a row are one file.
    ".GZ": lambda content: gzip.compress(content[:9]) + gzip.compress(content[9:]),
}


def read(path: Path, separator: str = SEPARATOR, column: str | None = None) -> list[str]:
    settings = ReaderSettings(separator, (column or "text",))
    return [text_of(record, column) for record in read_records([identify(path)], settings)]


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize(("name", "encode"), FORMATS)
def test_every_format_gives_back_the_texts_that_went_in(
    tmp_path: Path, name: str, encode: Encode, compression: str
) -> None:
    path = tmp_path / (name + compression)
    path.write_bytes(COMPRESSORS[compression](encode(TEXTS)))
    assert read(path) == TEXTS


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("name", "encode"), TEXT_FORMATS)
def test_every_encoding_gives_back_the_texts_that_went_in(
    tmp_path: Path, name: str, encode: Encode, encoding: str
) -> None:
    path = tmp_path / name
    path.write_bytes(ENCODINGS[encoding](encode(TEXTS)))
    assert read(path) == TEXTS


# Newlines of .txt files are normalised, and documents of white space dropped; quotes, commas and brackets are syntax.
ANY_TEXTS = st.lists(st.text('ab",\t\n;{}[]:\\🦊é\u2028 ', min_size=1).map(lambda text: f"<{text}>"), max_size=8)


@given(
    texts=ANY_TEXTS,
    form=st.sampled_from(FORMATS),
    encoding=st.sampled_from(sorted(ENCODINGS)),
    compression=st.sampled_from(sorted(COMPRESSORS)),
    chunk=st.integers(1, 40),
)
def test_any_texts_are_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    form: tuple[str, Encode],
    encoding: str,
    compression: str,
    chunk: int,
) -> None:
    name, encode = form
    content = encode(texts)
    if form in TEXT_FORMATS:
        content = ENCODINGS[encoding](content)
    path = tmp_path_factory.getbasetemp() / (name + compression)
    path.write_bytes(COMPRESSORS[compression](content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_decoding, "CHUNK_BYTES", chunk)
        assert read(path) == texts


@given(
    text=st.text("ab\né\r🦊= \t\u3000", max_size=60),
    separator=st.sampled_from(["\n\n", "\n", "==", "=a=", "🦊"]),
    chunk=st.integers(1, 12),
)
def test_documents_are_the_same_for_any_chunk_size(
    tmp_path_factory: pytest.TempPathFactory, text: str, separator: str, chunk: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "chunks.txt"
    path.write_bytes(text.encode())
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    if separator == "\n\n":
        lines = [line if line.strip() else "" for line in plain.split("\n")]
        expected = [document.strip("\n") for document in re.split(r"\n\n+", "\n".join(lines))]
    else:
        expected = [document.strip("\n") for document in plain.split(separator)]
    documents = read_txt(identify(path), ReaderSettings(separator), chunk)
    assert [record.value for record in documents] == [document for document in expected if document.strip()]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("blank", ["", " ", "\t ", "\u3000"])
def test_a_blank_line_separates_documents_whatever_white_space_it_holds(
    tmp_path: Path, newline: str, blank: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(newline.join([blank, "  one", "more ", blank, blank, "two", blank]).encode())
    assert read(path, "\n\n") == ["  one\nmore ", "two"]


def test_a_separator_on_a_line_of_its_own_leaves_no_empty_document(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("One.\n<|endoftext|>\nTwo.\n\nStill two.\n<|endoftext|>\n")
    assert read(path) == ["One.", "Two.\n\nStill two."]
    assert read(path, "\n\n") == ["One.\n<|endoftext|>\nTwo.", "Still two.\n<|endoftext|>"]


@pytest.mark.parametrize("name", ["a.md", "a.py", "a.html.gz", "a.RS"])
def test_markdown_and_source_code_are_one_document_per_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = b"def f():\r\n\treturn 1\r\n\r\n\r\nx = 1\n"
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert read(path, "\n\n") == ["def f():\n\treturn 1\n\n\nx = 1\n"]


def test_records_know_where_they_come_from(tmp_path: Path) -> None:
    wheres = {
        "a.jsonl": (b'{"text": "a"}\n\n{"text": "b"}\n', ", line 3"),
        "a.csv": (b'text\n"a\nb"\nc\n', ", line 4"),
        "a.json": (b'[\n"a",\n"b"]', ", line 3, element 2"),
        "a.txt": (b"a\n\nb", ", document 2"),
        "a.parquet": (as_parquet(["a", "b"]), ", row 2"),
    }
    for name, (content, where) in wheres.items():
        (tmp_path / name).write_bytes(content)
        records = list(read_records([identify(tmp_path / name)], ReaderSettings("\n\n")))
        assert records[-1].where == f"{tmp_path / name}{where}"


def test_formats_of_columns_read_only_those_that_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [{"data": {"text": "a", "id": 1}, "data.text": "b", "other": 1}]
    pq.write_table(pa.Table.from_pylist(rows), path)

    def columns(*needed: str) -> set[str]:
        (record,) = read_records([identify(path)], ReaderSettings("", needed))
        assert not isinstance(record.value, str)
        return set(record.value)

    assert columns("data.text") == {"data.text"}
    assert columns("data.id") == {"data"}
    assert columns("missing") == {"data", "data.text", "other"}  # for the message that lists them


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_dotted_name_is_a_path_unless_a_column_has_that_name(tmp_path: Path, name: str) -> None:
    def write(rows: list[dict[str, Any]]) -> None:
        if name.endswith("jsonl"):
            (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        else:
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)

    write([{"data": {"text": "a", "meta": {"note": "b"}}}, {"data": None}])
    assert read(tmp_path / name, column="data.text") == ["a", ""]
    assert read(tmp_path / name, column="data.meta.note") == ["b", ""]
    with pytest.raises(DataError, match=r"no column 'text'.*\(columns: data\.text, data\.meta\.note\)"):
        read(tmp_path / name)
    write([{"data": {"text": "a"}, "data.text": "literal"}])
    assert read(tmp_path / name, column="data.text") == ["literal"]


@pytest.mark.parametrize(
    ("name", "encode"), [("a.txt", as_txt), ("a.jsonl", as_jsonl), ("a.csv", as_csv), ("a.json", as_array)]
)
def test_a_large_file_streams_in_constant_memory(tmp_path: Path, name: str, encode: Encode) -> None:
    path = tmp_path / name
    path.write_bytes(encode(["A story of some length. " * 400] * 2_000))
    file = identify(path)
    tracemalloc.start()
    assert sum(1 for _ in read_records([file], ReaderSettings(SEPARATOR))) == 2_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 19e6
    assert peak < 8 * text_decoding.CHUNK_BYTES


def test_a_csv_field_may_be_long_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    long = "word " * 100_000
    path = tmp_path / "a.csv"
    path.write_text(f"\ntext\n{long}\n\n \nshort\n")
    assert read(path) == [long, "short"]


def test_another_column_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"story": ["a", None], "stars": [1, 2]}), path)
    assert read(path, column="story") == ["a", ""]
    for column, expected in ((None, "story, stars"), ("plot", "story, stars"), ("stars", "int 1, not text")):
        with pytest.raises(DataError, match=expected):
            read(path, column=column)
