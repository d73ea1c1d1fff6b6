"""The layouts of JSON files: an array of rows, rows below a key, or a row on each line."""

import json
from pathlib import Path

import pytest

from slm_data.sources.content import identify
from slm_data.sources.decoding import text_decoding
from slm_data.sources.readers.settings import ReaderSettings
from slm_data.sources.reading import read_records
from slm_data.sources.text_column import text_of

SETTINGS = ReaderSettings("\n\n")


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"[]", []),
        (b' [ "a" , {"text":"b"} ] \n', ["a", "b"]),
        (b'{"text": "a"}', ["a"]),
        (b'{"text": "a", "tags": ["x", "y"]}\n', ["a"]),
        (b'{\n "text": "a",\n "tags": ["x"]\n}\n', ["a"]),
        (b'{"text": "a", "tags": ["x"]}\n{"text": "b", "tags": ["y"]}\n', ["a", "b"]),
        (b'{"version": 2, "rows": [{"text": "a"}, {"text": "b"}]}', ["a", "b"]),
        (b'{"rows": ["a", "b"], "n": {"rows": 2}}', ["a", "b"]),
        (b'{"version": 2, "rows": ["a", "b"], "size": 2}\n\n', ["a", "b"]),
        (b'"a"\n"b"\n', ["a", "b"]),
        (b'["' + b"x" * 3000 + b'", "\\u00e9"]', ["x" * 3000, "é"]),
    ],
)
def test_a_json_file_has_one_of_three_layouts(
    tmp_path: Path, content: bytes, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    for chunk in (1, 7, 1 << 20):
        monkeypatch.setattr(text_decoding, "CHUNK_BYTES", chunk)
        assert [text_of(record, None) for record in read_records([identify(path)], SETTINGS)] == texts


def test_a_conversation_written_over_several_lines_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    row = {"id": 7, "messages": [{"role": "user", "content": "Hello"}]}
    path.write_text(json.dumps(row, indent=2))
    (record,) = read_records([identify(path)], SETTINGS)
    assert record.value == row
