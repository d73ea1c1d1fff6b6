"""Faults in the user's own files: each is one sentence that names the place and the remedy."""

import gzip
import io
import json
import re
import subprocess
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slm_data.errors import DataError
from slm_data.sources.content import identify
from slm_data.sources.decoding import text_decoding
from slm_data.sources.readers.settings import ReaderSettings
from slm_data.sources.reading import read_records
from slm_data.sources.text_column import text_of

TEXTS = ["One text.", "Another text."]
GZIP = gzip.compress(b"text", mtime=0)


def read(path: Path, separator: str = "\n\n") -> list[str]:
    settings = ReaderSettings(separator, ("text",))
    return [text_of(record, None) for record in read_records([identify(path)], settings)]


def error(path: Path, content: bytes, separator: str = "\n\n") -> str:
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(path, separator)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.txt"), "One text.")  # without the current time
    return out.getvalue()


def parquet(**columns: list[object]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"fine\n\nbroken \xe4 here", ["line 3", "byte 13", "ISO-8859-1"]),
        ("a.txt", b"\xef\xbb\xbfmarked \xff", ["line 1", "byte 10", "ISO-8859-1"]),
        ("a.txt", b"\x93quoted\x94", ["line 1", "byte 0", "WINDOWS-1252"]),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xe4"}\n', ["line 2", "byte 24"]),
        ("a.json", b'[{"text": "a"},\n{"text": "\xe4"}]\n', ["line 2", "byte 26"]),
        ("a.csv", b"text\nfine\nbr\xe4ken\n", ["line 3", "byte 12"]),
        ("a.txt", "größer, schöner, höher\n".encode() + b"\xff", ["line 2", "most of it is", "-c -f UTF-8"]),
        ("a.txt", "Привет, мир".encode("cp1251"), ["line 1", "ENCODING"]),
    ],
)
def test_invalid_utf8_is_reported_with_line_byte_and_conversion(
    tmp_path: Path, name: str, content: bytes, expected: list[str]
) -> None:
    message = error(tmp_path / name, content)
    assert all(words in message for words in ("not UTF-8", "iconv", *expected)), message


@pytest.mark.parametrize(
    ("codec", "iconv_name"),
    [
        ("utf-16-le", "UTF-16LE"),
        ("utf-16-be", "UTF-16BE"),
        ("utf-32", "UTF-32"),
        ("utf-32-le", "UTF-32LE"),
        ("utf-32-be", "UTF-32BE"),
        ("latin-1", "ISO-8859-1"),
        ("cp1252", "WINDOWS-1252"),
    ],
)
def test_the_command_that_is_named_converts_the_file(tmp_path: Path, codec: str, iconv_name: str) -> None:
    text = "“Größe”\n" if codec == "cp1252" else "Größe über alles.\n"
    message = error(tmp_path / "it's a.txt", (text * 50).encode(codec))
    assert f"-f {iconv_name} " in message
    command = message[message.index("iconv") :]
    subprocess.run(["bash", "-c", command], check=True, timeout=20)
    assert (tmp_path / "it's a.utf8.txt").read_text(encoding="utf-8") == text * 50


def test_a_compressed_file_is_converted_in_a_pipe(tmp_path: Path) -> None:
    message = error(tmp_path / "a.txt.gz", gzip.compress("Größe".encode("latin-1")))
    subprocess.run(["bash", "-c", message[message.index("gzip -dc") :]], check=True, timeout=20)
    assert (tmp_path / "a.utf8.txt").read_text(encoding="utf-8") == "Größe"


@pytest.mark.parametrize("content", [b"cut in a character \xc3", b"\xff\xfea\0b", b"\xff\xfe\x3d\xd8"])
def test_a_text_that_ends_within_a_character_is_truncated(tmp_path: Path, content: bytes) -> None:
    assert "truncated" in error(tmp_path / "a.txt", content)


@pytest.mark.parametrize("content", [b"one\n\0two", b"\0" * 5000, b"x" * 2_000_000 + b"\n\0", b"\xff\xfea\0\0\0"])
@pytest.mark.parametrize("name", ["a.txt", "a.md"])
def test_a_text_with_nul_bytes_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    message = error(tmp_path / name, content)
    assert "contains NUL bytes" in message
    assert f"line {1 + content.count(10)}" in message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", GZIP, "a.txt is gzip: name it {folder}/a.txt.gz"),
        ("a.jsonl", GZIP, "a.jsonl is gzip: name it {folder}/a.jsonl.gz"),
        ("a.csv", pa.compress(b"text", codec="zstd", asbytes=True), "a.csv is zstd: name it {folder}/a.csv.zst"),
        ("a.txt", zipped(), "a.txt is a zip archive: unpack it first (unzip {folder}/a.txt)"),
        ("a.jsonl.gz", zipped(), "is a zip archive: unpack it first"),
        ("a.jsonl", parquet(text=["a"]), "a.jsonl is Parquet: name it {folder}/a.parquet"),
        ("a.txt", b"%PDF-1.4\n%\xe2\xe3\xcf\xd3", "a.txt is a PDF, not text"),
        ("a.txt.gz", b"plain text", "is not compressed, not gzip: name it {folder}/a.txt"),
        ("a.txt.gz", pa.compress(b"text", codec="zstd", asbytes=True), "is zstd, not gzip: name it {folder}/a.txt.zst"),
        ("a.parquet", GZIP, "a.parquet is broken or not Parquet"),
        ("a.arrow", b"plain text", "a.arrow is broken or not Arrow"),
    ],
)
def test_another_format_than_the_name_promises_is_recognised(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    assert expected.format(folder=tmp_path) in error(tmp_path / name, content)


@pytest.mark.parametrize("kept", [12, 60, -9, -1])
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["a.txt", "a.parquet"])
def test_a_truncated_compressed_file_is_reported(tmp_path: Path, name: str, suffix: str, kept: int) -> None:
    content = "\n\n".join(f"text {number}" for number in range(500)).encode()
    whole = gzip.compress(content) if suffix == ".gz" else bytes(pa.compress(content, codec="zstd", asbytes=True))
    message = error(tmp_path / (name + suffix), whole[:kept])
    assert "is truncated" in message
    assert "copy or download it again" in message


def test_a_compressed_file_with_a_flipped_bit_is_reported(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(b"text " * 1000))
    whole[-6] ^= 1  # in the checksum
    assert "is broken (CRC check failed" in error(tmp_path / "a.txt.gz", bytes(whole))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"text": "a"}\n\n{"text": "b"\n', ["line 3", "broken JSON", "one object per line"]),
        (b'[\n{"text": "a"}\n]\n', ["line 1", "broken JSON", "name the file .json"]),
        (b'[{"text": "a"}]\n', ["line 1", "a JSON list", "name the file .json"]),
        (b'{"text": "a"}\n{"story": "b", "id": 3}\n', ["line 2", "no column 'text'", "story, id"]),
        (b'{"text": 12.5}\n', ["line 1", "'text'", "float 12.5", "not text"]),
        (b'{"text": "\\ud83d"}\n', ["line 1", "surrogate"]),
        (b"[" * 100_000, ["line 1", "broken JSON"]),
        (b"12\n", ["line 1", "a JSON int"]),
    ],
)
def test_a_broken_json_line_is_reported_with_its_number(tmp_path: Path, content: bytes, expected: list[str]) -> None:
    message = error(tmp_path / "a.jsonl", content)
    assert all(words in message for words in expected), message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"text": "a"}\n\n{"text": "b"\n', ["line 3", "broken JSON", "one object per line"]),
        (b'[\n{"text": "a"},\n{"text": 12.5}\n]', ["line 3, element 2", "float 12.5"]),
        (b'[\n{"text": "a"},\n12]', ["line 3, element 2", "a JSON int"]),
        (b'[\n{"text": "a"}\n{"text": "b"}]', ["line 3", "expected , or ], found {"]),
        (b'[\n{"text": "a"},\n{"text": b}]', ["line 3", "broken JSON (Expecting value)"]),
        (b'[\n{"text": "a"},\n{"text": "b', ["line 3", "broken JSON (Unterminated string"]),
        (b'[\n{"text": "a"},\n', ["line 3", "broken JSON"]),
        (b'["a"]\n["b"]\n', ["line 2", "a second JSON value", "jq -c"]),
        (b'{\n"text": "a"\n}\n{\n"text": "b"\n}\n', ["line 4", "a second JSON value", "jq -c"]),
        (b'{"a": ["x"], "b": ["y"]}', ["line 1", "the list 'a' and also 'b'"]),
        (b'{"tags": ["x"], "text": "y"}', ["line 1", "the list 'tags' and also 'text'"]),
        (b'{"story": "b", "id": 3}', ["line 1", "no column 'text'", "story, id"]),
        (b"{1: 2}", ["line 1", "a name in double quotes"]),
        (b"[" * 100_000, ["line 1"]),
        (b"[" + b'{"a":' * 100_000, ["line 1", "nested too deeply"]),
    ],
)
@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_a_broken_json_document_is_reported_with_its_line(
    tmp_path: Path, content: bytes, expected: list[str], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_decoding, "CHUNK_BYTES", chunk if len(content) < 1000 else 1 << 20)
    message = error(tmp_path / "a.json", content)
    assert all(words in message for words in expected), message


def test_a_fault_in_a_long_array_is_reported_without_reading_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_decoding, "CHUNK_BYTES", 1 << 10)
    rows = [json.dumps({"text": f"text {number}"}) for number in range(2000)]
    rows[3] = '{"text": oops}'
    rows[900] = '{"text": "\0"}'  # would be reported if it were reached
    assert "line 4: broken JSON" in error(tmp_path / "a.json", ("[" + ",\n".join(rows) + "]").encode("latin-1"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("id,story\n1,a\n", ["no column 'text'", "id, story", "--text_column"]),
        ("id,text\n1,a\n2\n", ["line 3", "1 field,", "names 2", "add"]),
        ("text\nOnce there was a cat, and it was fat\n", ["line 2", "2 fields", "names 1", "double quotes"]),
        ('id,text\n1,"a\nb"\n2,c,d\n', ["line 4", "3 fields"]),
        ("id,text\n1,a,\n", ["line 2", "3 fields"]),
        ('text\n"never closed\n', ["line 2", "broken"]),
        ('text\n"closed" too soon\n', ["line 2", "broken"]),
        ("text,id,text\na,1,b\n", ["line 1", "'text' twice"]),
        ("id;text\n1;a\n", ["line 1", "not semicolons"]),
        ("text\ra\rb\r", ["line 1", "carriage return"]),
    ],
)
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_broken_table_is_reported_with_its_line(
    tmp_path: Path, content: str, expected: list[str], delimiter: str
) -> None:
    content = re.sub(",", delimiter, content)
    message = error(tmp_path / ("a.csv" if delimiter == "," else "a.tsv"), content.encode())
    assert all(words in message for words in expected if words != "id, story"), message


def test_unnamed_columns_may_repeat(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,,\na,,\n")
    assert read(tmp_path / "a.csv") == ["a"]


def test_a_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    out = io.BytesIO()
    with pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    assert "two columns 'text'" in error(tmp_path / "a.arrow", out.getvalue())


@pytest.mark.parametrize("left", [5, 200, -1])
def test_a_truncated_parquet_is_reported(tmp_path: Path, left: int) -> None:
    message = error(tmp_path / "a.parquet", parquet(text=[*TEXTS * 100])[:left])
    assert all(words in message for words in ("broken", "again")), message


def test_a_document_without_end_is_refused_before_memory_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_decoding, "MAX_LENGTH", 1 << 20)
    content = b"a line\n" * 900_000
    assert "--document_separator" in error(tmp_path / "a.txt", content, "<|x|>")
    assert "line 1" in error(tmp_path / "a.jsonl", content.replace(b"\n", b" "))
    assert "never closed" in error(tmp_path / "a.json", b'["' + content.replace(b"\n", b" "))
    assert "too long for one document" in error(tmp_path / "a.md", content)
