"""``slm-lab eval --tasks``: results of each run and its base, in the table and in eval.json, without a network."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.evaluator import evaluate as lm_eval_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import slm_lab.evaluation.tasks_command as tasks_command
from slm_adapters import load
from slm_testing.lab.local_tasks import KINDS, story_examples, write_task

Evaluate = Callable[..., int]
ReadResults = Callable[[Path], dict[str, Any]]
NAMES = [f"stories_{kind}" for kind in KINDS]


def numbers(record: dict[str, Any]) -> dict[str, float]:
    return {score["metric"]: score["value"] for score in record["scores"]}


def hf_results(folder: str | Path, names: list[str], tasks: Path) -> dict[str, Any]:
    """The results of lm-eval's ``hf`` model."""
    loaded = load(folder, dtype=torch.float32)
    model: Any = HFLM(loaded.model, tokenizer=loaded.tokenizer, batch_size=4)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    results: Any = lm_eval_evaluate(model, manager.load(names), bootstrap_iters=0)
    return dict(results["results"])


def test_scores_of_runs_and_base_are_those_of_lm_evals_hf_model(
    runs: list[Path], tiny_folder: Path, tasks: Path, evaluate: Evaluate, read_results: ReadResults
) -> None:
    assert evaluate(*runs, "--tasks", ",".join(NAMES), "--include_path", tasks) == 0
    recorded = [read_results(folder) for folder in runs]
    assert recorded[0]["base"]["tasks"].keys() == recorded[1]["base"]["tasks"].keys() == set(NAMES)
    sections = [(runs[1], recorded[1]), (tiny_folder, recorded[0]["base"])]
    for folder, section in sections:
        expected = hf_results(folder, NAMES, tasks)
        for name in NAMES:
            for metric, value in numbers(section["tasks"][name]).items():
                assert value == pytest.approx(expected[name][f"{metric},none"], rel=1e-4), (name, metric)
    assert numbers(recorded[0]["tasks"]["stories_rolling"]) != numbers(recorded[1]["tasks"]["stories_rolling"])


def test_the_built_in_base_needs_no_run(tasks: Path, evaluate: Evaluate, read_results: ReadResults) -> None:
    names = "stories_choice,stories_rolling"
    assert evaluate("sample", "--tasks", names, "--include_path", tasks, "--limit", 4) == 0
    content = read_results(Path("outputs/eval/sample"))
    record = content["tasks"]["stories_choice"]
    assert (record["n"], record["settings"]["limit"], record["engine"], record["dtype"]) == (4, 4, "paged", "float32")
    assert record["version"] == "1.0"
    assert {"lm-eval", "slm-kv", "torch"} <= record["versions"].keys()
    assert numbers(content["tasks"]["stories_rolling"])["bits_per_byte"] < 2  # it was trained on such stories
    (accuracy,) = (score for score in record["scores"] if score["metric"] == "acc")
    rate = accuracy["value"]
    assert accuracy["stderr"] == pytest.approx(math.sqrt(rate * (1 - rate) / 3))  # of 4 examples, with Bessel's n - 1


def test_the_table_has_a_column_for_each_model(
    runs: list[Path], tiny_folder: Path, tasks: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(*runs, "--tasks", "stories_choice", "--include_path", tasks)
    lines = capsys.readouterr().out.splitlines()
    (header,) = (line for line in lines if line.split()[:3] == ["task", "n", "metric"])
    assert header.split()[3:] == ["base", tiny_folder.name, "lora", "butterfly"]
    (row,) = (line for line in lines if "stories_choice" in line and "acc ↑" in line)
    assert row.count("±") == 3


def test_a_task_that_was_computed_with_the_same_settings_is_not_computed_again(
    runs: list[Path], tasks: Path, evaluate: Evaluate, read_results: ReadResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (runs[0], "--tasks", "stories_choice", "--include_path", tasks)
    evaluate(*words)
    first = read_results(runs[0])
    evaluate(*words, "--tasks", "stories_choice,stories_generate")
    assert read_results(runs[0])["tasks"]["stories_choice"] == first["tasks"]["stories_choice"]
    assert "stories_generate" in read_results(runs[0])["tasks"]
    evaluate(*words, "--limit", 3)
    assert read_results(runs[0])["tasks"]["stories_choice"]["n"] == 3
    loaded: list[int] = []
    monkeypatch.setattr(
        "slm_lab.evaluation.evaluator.open_models", lambda group, wanted, options: loaded.append(len(wanted)) or ()
    )
    evaluate(*words, "--limit", 3)
    evaluate(*words, "--limit", 3, "--overwrite")
    assert loaded == [0, 2]


def test_results_of_other_weights_or_of_another_task_are_not_used(
    runs: list[Path], tmp_path: Path, evaluate: Evaluate, read_results: ReadResults
) -> None:
    folder = tmp_path / "mine"
    write_task(folder, "mine", "choice", story_examples(3))
    words = (runs[0], "--tasks", "mine", "--include_path", folder, "--no_base")
    evaluate(*words)
    before = read_results(runs[0])
    write_task(folder, "mine", "choice", story_examples(5), version=2.0)
    evaluate(*words)
    assert [before["tasks"]["mine"]["n"], read_results(runs[0])["tasks"]["mine"]["n"]] == [3, 5]
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (runs[0] / name).write_bytes((runs[1] / name).read_bytes())
    evaluate(*words)
    after = read_results(runs[0])
    assert after["identity"] != before["identity"]
    assert "base" not in after


def test_a_task_without_data_is_reported_and_the_others_are_computed(
    runs: list[Path], tasks: Path, evaluate: Evaluate, read_results: ReadResults, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    write_task(tmp_path / "mine", "lost", "choice", [])
    (tmp_path / "mine" / "lost.jsonl").unlink()
    write_task(tmp_path / "mine", "good", "choice", story_examples(2))
    assert evaluate(runs[0], "--no_base", "--tasks", "lost,good", "--include_path", tmp_path / "mine") == 1
    output = capsys.readouterr().out
    assert "task lost cannot be loaded:" in output
    assert read_results(runs[0])["tasks"].keys() == {"good"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "stories_choise"], "there is no task 'stories_choise'; did you mean stories_choice"),
        (["--tasks", "lambada_openay"], "did you mean lambada_openai"),
        (["--tasks", ","], "no task is named"),
        ([], "nothing to evaluate: give --tasks, --prompts or --perplexity"),
        (["--tasks", "stories_choice", "--include_path", "missing"], "--include_path missing is not a folder"),
        (["--tasks", "stories_choice", "--limit", "0"], "'0' is not an integer of at least 1"),
    ],
)
def test_mistakes_are_refused_in_one_sentence(
    words: list[str], message: str, tasks: Path, refused: Callable[..., str]
) -> None:
    include = [] if "--include_path" in words else ["--include_path", tasks]
    assert message in refused("eval", "sample", *words, *include)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, tasks: Path, refused: Callable[..., str]) -> None:
    assert "has neither config.json" in refused("eval", tmp_path, "--tasks", "stories_choice", "--include_path", tasks)


def test_without_lm_eval_the_command_to_install_it_is_named(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.setattr(tasks_command, "find_spec", lambda name: None)
    assert refused("eval", "sample", "--tasks", "hellaswag").endswith('pip install "slm-lab[eval]"')


def test_tasks_of_lm_eval_are_found_without_its_index() -> None:
    from slm_lab.evaluation.harness.task_files import task_entries, task_manager

    manager = task_manager(["hellaswag", "arc_easy", "lambada_openai", "mmlu_stem"], None)
    assert len(manager.task_index) < 2000
    entries = {entry.name for entry in task_entries(manager, ["mmlu_stem", "hellaswag"])}
    assert {"hellaswag", "mmlu_abstract_algebra"} <= entries


def test_a_group_has_its_own_score_beside_those_of_its_tasks(
    runs: list[Path], tmp_path: Path, evaluate: Evaluate, read_results: ReadResults
) -> None:
    for name, count in (("few", 2), ("more", 6)):
        write_task(tmp_path / "mine", name, "choice", story_examples(count))
    group = "group: both\ntask: [few, more]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    (tmp_path / "mine" / "both.yaml").write_text(group)
    evaluate(runs[0], "--no_base", "--tasks", "both", "--include_path", tmp_path / "mine")
    scores = read_results(runs[0])["tasks"]["both"]["scores"]
    few, more, both = ({"n": each["n"], "acc": each["value"]} for each in scores if each["metric"] == "acc")
    assert [few["n"], more["n"]] == [2, 6]
    assert both["acc"] == pytest.approx((2 * few["acc"] + 6 * more["acc"]) / 8)


def test_damaged_results_are_computed_again(
    runs: list[Path], tasks: Path, evaluate: Evaluate, read_results: ReadResults
) -> None:
    (runs[0] / "eval.json").write_text('{"format": 1, "tasks": {', encoding="utf-8")
    evaluate(runs[0], "--no_base", "--tasks", "stories_choice", "--include_path", tasks)
    assert json.dumps(read_results(runs[0])["tasks"]["stories_choice"]["n"]) == "6"
