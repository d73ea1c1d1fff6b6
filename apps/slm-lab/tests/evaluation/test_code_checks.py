"""Tasks that would run code are refused, unless --allow_code is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from slm_testing.lab.local_tasks import story_examples, write_task

CODE = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\ndef docs(dataset):\n    return dataset\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a task, and Python code that leaves a mark where it runs."""
    write_task(tmp_path / "mine", "mine", "choice", story_examples(2))
    (tmp_path / "mine" / "code.py").write_text(CODE)
    return tmp_path / "mine"


def add(folder: Path, text: str, name: str = "mine") -> None:
    path = folder / f"{name}.yaml"
    path.write_text((path.read_text() if path.is_file() else "") + text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("process_docs: !function code.docs\n", "has !function, with which a task runs code"),
        ("repeats: !!python/object/apply:os.getpid []\n", "there is no task 'mine'"),  # lm-eval skips such a file
        ("unsafe_code: true\n", "is marked as unsafe code"),
        ("dataset_path: pandas\n", "reads data with 'pandas', which can run code"),
        ("dataset_kwargs: {trust_remote_code: true}\n", "sets trust_remote_code"),
        ("metric_list: [{metric: someone/metric}]\n", "has the metric 'someone/metric', whose code"),
        ("metric_list: [{metric: acc, hf_evaluate: true}]\n", "has the metric 'acc', whose code"),
    ],
)
def test_a_local_task_that_runs_code_is_refused(
    text: str, message: str, folder: Path, refused: Callable[..., str]
) -> None:
    add(folder, text)
    assert message in refused("eval", "sample", "--tasks", "mine", "--include_path", folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("kind", ["include", "group", "tag"])
def test_a_function_is_found_wherever_the_task_comes_from(kind: str, folder: Path, refused: Callable[..., str]) -> None:
    name = "mine"
    if kind == "include":
        add(folder, "include: other.yaml\n")
        add(folder, "process_docs: !function code.docs\n", "other")
    else:
        add(folder, "process_docs: !function code.docs\n")
        name = "many"
        add(folder, "tag: many\n") if kind == "tag" else add(folder, "group: many\ntask: [mine]\n", "many")
    assert "runs code; give --allow_code" in refused("eval", "sample", "--tasks", name, "--include_path", folder)
    assert not (folder / "ran").exists()


def test_allow_code_runs_it(folder: Path, tiny_folder: Path, evaluate: Callable[..., int]) -> None:
    add(folder, "process_docs: !function code.docs\n")
    assert evaluate(tiny_folder, "--tasks", "mine", "--include_path", folder, "--allow_code") == 0
    assert (folder / "ran").exists()


def test_templates_of_tasks_reach_no_python_objects(
    folder: Path, tiny_folder: Path, evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    add(folder, "description: ''\ndoc_to_text: \"{{ ''.__class__.__mro__ }}\"\n")
    assert evaluate(tiny_folder, "--tasks", "mine", "--include_path", folder) == 1
    assert "access to attribute '__class__' of 'str' object is unsafe" in " ".join(capsys.readouterr().out.split())
