"""Pages of weight files leave memory once they are copied, and no change of a weight is lost."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from slm_kv.mapped_files import BYTES_BETWEEN, CopiedWeights, drop_file_pages, unchanged_mappings

SMAPS = """\
7f0000000000-7f0000002000 rw-p 00000000 fe:00 1234                       /models/a.safetensors
Rss:                   8 kB
Anonymous:             0 kB
Swap:                  0 kB
7f0000002000-7f0000004000 rw-p 00000000 fe:00 1235                       /models/changed.safetensors
Anonymous:             4 kB
Swap:                  0 kB
7f0000004000-7f0000006000 rw-p 00000000 fe:00 1236                       /models/swapped.safetensors
Anonymous:             0 kB
Swap:                  4 kB
7f0000006000-7f0000008000 rw-p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
7f0000008000-7f000000a000 rw-p 00000000 fe:00 1237                       /lib/libtorch.so
Anonymous:             0 kB
Swap:                  0 kB
"""


def test_only_weight_files_without_a_changed_page_are_dropped() -> None:
    assert unchanged_mappings(SMAPS) == [(0x7F0000000000, 0x7F0000002000)]


def resident_file_kilobytes(file: Path) -> int:
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [index for index, line in enumerate(lines) if line.endswith(str(file))]
    rows = (next(line for line in lines[start:] if line.startswith("Rss:")) for start in starts)
    return sum(int(line.split()[1]) for line in rows)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux says which pages are in memory")
def test_dropped_pages_are_read_again_and_changes_are_kept(tmp_path: Path) -> None:
    files = [tmp_path / "read.safetensors", tmp_path / "changed.safetensors"]
    expected = torch.randn(1 << 20)
    for file in files:
        save_file({"weight": expected}, file)
    read, changed = (load_file(file)["weight"] for file in files)
    assert torch.equal(read, expected)
    changed[5] = 1e6
    before = resident_file_kilobytes(files[0])
    drop_file_pages()
    if before:  # safetensors may read a file instead of mapping it
        assert resident_file_kilobytes(files[0]) < before / 2
    assert torch.equal(read, expected)
    assert float(changed[5]) == 1e6
    assert torch.equal(changed[6:], expected[6:])


def test_pages_are_dropped_after_each_64_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[int] = []
    monkeypatch.setattr("slm_kv.mapped_files.drop_file_pages", lambda: dropped.append(1))
    copied = CopiedWeights()
    for _ in range(5):
        copied.add(BYTES_BETWEEN // 2)
    assert len(dropped) == 2
