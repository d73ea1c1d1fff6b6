"""Releases: wheels and sdists are complete, and each member works with only its declared dependencies."""

from __future__ import annotations

import importlib.util
import subprocess
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from slm_testing.workspace.environments import create_environment
from slm_testing.workspace.readme_blocks import ROOT


def load_script() -> ModuleType:
    # scripts/ is a folder of programs, not a package on the path.
    spec = importlib.util.spec_from_file_location("release", ROOT / "scripts" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release = load_script()
MEMBERS = {member.name: member for member in release.members()}

MODEL = """
from transformers import GPT2Config, GPT2LMHeadModel
model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=64, n_positions=32)).eval()
"""
# A typical use of each member, through its exported names.
USES = {
    "slm-data": """
from pathlib import Path
from transformers import AutoTokenizer
from slm_data import SourceOptions, load_corpus, plan_rows, sample_base, tokenize
corpus = load_corpus(SourceOptions(max_train_samples=20))
store = tokenize(corpus.train, AutoTokenizer.from_pretrained(sample_base()), cache_dir=Path("tokens"))
assert plan_rows(store.lengths, 64, "best_fit").tokens == store.counts.tokens
""",
    "slm-adapters": MODEL
    + """
import torch
from slm_adapters import ButterflySettings, add_butterfly
adapted = add_butterfly(model, ButterflySettings())
assert adapted(torch.arange(8)[None]).logits.isfinite().all()
""",
    "slm-kv": MODEL
    + """
import torch
from slm_kv import PagedCache
request = {"inputs": torch.arange(8)[None], "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
paged = model.generate(**request, past_key_values=PagedCache(page_size=4, max_pages=8))
assert torch.equal(paged, model.generate(**request))
""",
    "slm-train": """
from slm_train import main
assert main("--max_steps 1 --max_train_samples 20 --max_eval_samples 4 --output_dir run".split()) == 0
""",
    "slm-serve": """
from slm_serve import Settings, create_app
assert "/generate" in create_app(Settings()).openapi()["paths"]
""",
    "slm-bench": """
from slm_bench.cli import main
assert main("kv --max_new_tokens 4 --rounds 1 --threads 1".split()) == 0
""",
    "slm-lab": """
from slm_lab.cli import main
assert main("runs .".split()) in (0, 2)
""",
}
CHECK_ABSENT = """
import importlib.util
present = [name for name in {names!r} if importlib.util.find_spec(name)]
assert not present, present
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and an sdist of every published member."""
    folder = tmp_path_factory.mktemp("dist")
    release.build(folder)
    return folder


def test_every_wheel_and_sdist_contains_its_member_and_nothing_else(dist: Path) -> None:
    assert [fault for member in MEMBERS.values() for fault in release.faults(member, dist)] == []


def test_only_published_members_are_built(dist: Path) -> None:
    endings = (".tar.gz", "-py3-none-any.whl")
    expected = {f"{member.stem}{ending}" for member in MEMBERS.values() for ending in endings}
    assert {file.name for file in dist.iterdir() if file.name != ".gitignore"} == expected


def test_a_wheel_with_a_missing_or_an_unexpected_file_is_refused(dist: Path, tmp_path: Path) -> None:
    member = MEMBERS["slm-data"]
    sdist, wheel = f"{member.stem}.tar.gz", f"{member.stem}-py3-none-any.whl"
    (tmp_path / sdist).symlink_to(dist / sdist)
    with zipfile.ZipFile(dist / wheel) as complete, zipfile.ZipFile(tmp_path / wheel, "w") as broken:
        for name in complete.namelist():
            if not name.endswith(("model.safetensors", "py.typed")):
                broken.writestr(name, complete.read(name))
        broken.writestr("slm_data/notes.txt", "")
    assert release.faults(member, tmp_path) == [
        f"{wheel} lacks slm_data/py.typed",
        f"{wheel} lacks slm_data/sample/base_model/model.safetensors",
        f"{wheel} contains the unexpected slm_data/notes.txt",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_works_with_only_its_declared_dependencies(name: str, dist: Path, tmp_path: Path) -> None:
    programs = create_environment(name, dist, tmp_path / "environment")
    undeclared = [member.module for member in MEMBERS.values() if member.name not in _siblings(name) | {name}]
    result = subprocess.run(
        [programs / "python", "-I", "-c", CHECK_ABSENT.format(names=undeclared) + USES[name]],
        cwd=tmp_path,
        env={"SLM_CACHE": str(tmp_path / "tokens"), "HOME": str(tmp_path), "PATH": str(programs)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    for program in tomllib.loads((MEMBERS[name].folder / "pyproject.toml").read_text())["project"].get("scripts", ()):
        help_page = subprocess.run([programs / program, "--help"], cwd=tmp_path, capture_output=True, text=True)
        assert help_page.returncode == 0, help_page.stderr
        assert program in help_page.stdout


def _siblings(name: str) -> set[str]:
    """Members that a member depends on, directly or indirectly."""
    project = tomllib.loads((MEMBERS[name].folder / "pyproject.toml").read_text())["project"]
    direct = {other for other in MEMBERS if any(line.startswith(other) for line in project["dependencies"])}
    return direct.union(*(_siblings(other) for other in direct))
