"""The engine as a model of lm-eval gives what lm-eval's own ``hf`` model gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from slm_adapters import load
from slm_lab.errors import LabError
from slm_lab.evaluation.harness.engine_model import EngineModel
from slm_lab.evaluation.loading import EngineOptions, OpenModel, open_models
from slm_lab.evaluation.members import plan_groups
from slm_testing.lab.local_tasks import story_examples

POSITIONS = 128

STORIES = [example["story"] * 2 for example in story_examples(4)]  # of more tokens than the window
PAIRS = [
    ("Once upon a time", " there was a cat"),
    ("Once upon a time", " there was a dog."),
    ("Once upon a time ", "there"),  # its space belongs to the continuation
    ("", "A dog ran."),
    ("", "<|startoftext|>A dog ran."),
    ("<|startoftext|>A dog", " ran"),
    (STORIES[0], " The end."),
    (STORIES[0], " The end."),
    (STORIES[1][:40], STORIES[1][40:100]),
]
OPTIONS = [{"until": ["."], "max_gen_toks": 20}, {"until": "\n\n", "max_new_tokens": 9, "do_sample": False}]


def instances(kind: str, arguments: list[Any]) -> list[Any]:
    return [Instance(kind, {}, each, index) for index, each in enumerate(arguments)]


@pytest.fixture(scope="module", params=["base", "lora", "butterfly"])
def both(
    request: pytest.FixtureRequest, tiny_folder: Path, adapter_folders: dict[str, Path]
) -> Iterator[tuple[EngineModel, Any]]:
    folder = adapter_folders.get(request.param, tiny_folder)
    loaded = load(folder, dtype=torch.float32)
    hf: Any = HFLM(loaded.model, tokenizer=loaded.tokenizer, batch_size=4)
    with_engine = open_model(folder)
    yield EngineModel(next(with_engine)), hf
    with_engine.close()


def open_model(folder: Path, **options: Any) -> Any:
    (group,) = plan_groups([str(folder)], with_bases=False, output_dir=folder)
    return open_models(group, group.members, EngineOptions("float32", "cpu", threads=1, **options))


def test_log_likelihoods_and_greedy_flags_are_equal(both: tuple[EngineModel, Any]) -> None:
    own, hf = (model.loglikelihood(instances("loglikelihood", PAIRS)) for model in both)
    assert [logprob for logprob, _ in own] == pytest.approx([logprob for logprob, _ in hf], abs=1e-4)
    assert [greedy for _, greedy in own] == [greedy for _, greedy in hf]


def test_rolling_log_likelihoods_of_texts_longer_than_the_window_are_equal(both: tuple[EngineModel, Any]) -> None:
    requests = instances("loglikelihood_rolling", [(story,) for story in [*STORIES, "One."]])
    own, hf = (model.loglikelihood_rolling(requests) for model in both)
    assert own == pytest.approx(hf, rel=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
def test_greedy_texts_are_equal(both: tuple[EngineModel, Any], options: dict[str, Any]) -> None:
    requests = instances("generate_until", [(text, options) for text in [*STORIES, "Once upon a time"]])
    own, hf = (model.generate_until(requests) for model in both)
    assert own == hf


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("loglikelihood", ("A", STORIES[0]), f"a context of {POSITIONS}; leave this task out"),
        ("loglikelihood", ("A", ""), "a continuation has no tokens"),
        ("generate_until", ("A", {"max_gen_toks": POSITIONS}), f"lets the model write {POSITIONS} tokens"),
        ("generate_until", ("A", {"num_beams": 4, "max_gen_toks": 4}), "no setting 'num_beams'"),
    ],
)
def test_what_the_engine_cannot_do_is_refused(
    both: tuple[EngineModel, Any], kind: str, arguments: Any, message: str
) -> None:
    with pytest.raises(LabError, match=message):
        getattr(both[0], kind)(instances(kind, [arguments]))


def test_a_shorter_window_cuts_contexts_from_the_left(tiny_folder: Path) -> None:
    long, short = open_model(tiny_folder), open_model(tiny_folder, max_length=16)
    models: list[OpenModel] = [next(long), next(short)]
    own = [EngineModel(model) for model in models]
    ids = own[0].tok_encode(STORIES[0])[:40]
    expected = own[0]._loglikelihood_tokens([(None, ids[-17:-2], ids[-2:]), (None, ids[-17:-3], ids[-3:])])
    assert own[1]._loglikelihood_tokens([(None, ids[:-2], ids[-2:]), (None, ids[:-3], ids[-3:])]) == [
        (pytest.approx(logprob, abs=1e-5), greedy) for logprob, greedy in expected
    ]
    long.close()
    short.close()
