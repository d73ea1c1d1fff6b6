"""The built-in demonstration convinces in every mode: texts about the new hero, in the English of genuine stories."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from slm_adapters import AdapterError, load
from slm_testing.workspace.readme_blocks import ROOT


def load_script() -> ModuleType:
    # scripts/ is a folder of programs, not a package on the path.
    spec = importlib.util.spec_from_file_location("demo_check", ROOT / "scripts" / "demo_check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_check"] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


demo = load_script()


@pytest.fixture(autouse=True, scope="module")
def _same_threads_afterwards() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base() -> Any:
    return load("sample")


@pytest.fixture(scope="module")
def judges(base: Any) -> Any:
    try:
        return demo.Judges(base, load(demo.JUDGE))
    except AdapterError:  # no hub
        return demo.Judges(base, None)


@pytest.fixture(scope="module")
def before(judges: Any) -> Any:
    return demo.judged(judges, judges.base)


@pytest.mark.slow
@pytest.mark.parametrize("mode", demo.MODES)
def test_runs_without_flags_convince(
    mode: str, judges: Any, before: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLM_CACHE", str(tmp_path / "cache"))
    results = [demo.check(mode, seed, tmp_path / str(seed), judges, before) for seed in (1, 2, 3)]
    table = "\n".join(map(demo.row, results))
    assert [figures.misses() for figures in results] == [[], [], []], table
    assert demo.misses_of_judge(mode, results) == [], table
    if judges.other is None:
        pytest.skip(f"every mark but one is reached: no hub provides the judge {demo.JUDGE}")


# The check itself


@pytest.mark.parametrize(
    ("after", "missed"),
    [
        (("Zip blew bubbles.", 1.5, 0.9), ""),
        (("Zip blew bubbles.", 2.1, 0.9), "the base rates the English 2.10"),
        (("Zip blew bubbles.", 2.1, None), "the base rates the English 2.10"),
        (("Zip blew bubbles.", float("nan"), 0.9), "the base rates the English nan"),
        (("Tim blew bubbles.", 1.5, 0.9), "only 0 of 10 texts"),
    ],
)
def test_worse_texts_miss_a_mark(after: tuple[str, float, float | None], missed: str) -> None:
    sentence, *ratings = after
    texts = [tuple(f"{prompt}, {kind}" for prompt in demo.PROMPTS for _ in range(10)) for kind in ("a cat.", sentence)]
    figures = demo.Figures("lora", 1, demo.Texts(texts[0], 0.8, 0.92), demo.Texts(texts[1], *ratings), (9.4, 1.5), 60.0)
    assert [miss[: len(missed)] for miss in figures.misses()] == [missed] * bool(missed)
    assert "→" in demo.row(figures)


@pytest.mark.parametrize(
    ("after", "missed"),
    [
        ((0.90, 0.93, 0.91), []),
        ((0.90, 0.95, 0.94), ["lora: the judge rates the English 0.930, before training 0.920"]),
        ((float("nan"), 0.9, 0.9), ["lora: the judge rates the English nan, before training 0.920"]),
        ((None, None, None), []),
    ],
)
def test_the_judge_is_asked_about_a_mode_as_a_whole(after: tuple[float | None, ...], missed: list[str]) -> None:
    def run(mode: str, rating: float | None) -> Any:
        return demo.Figures(mode, 1, demo.Texts((), 0.8, 0.92), demo.Texts((), 1.5, rating), (9.4, 1.5), 60.0)

    results = [*(run("lora", rating) for rating in after), run("qlora", 5.0)]
    assert demo.misses_of_judge("lora", results) == missed


def test_hero_and_trait_are_whole_words() -> None:
    assert demo.names_hero_and_trait("One day, Zip blew a bubble.")
    assert not demo.names_hero_and_trait("One day, Zip saw a ball.")
    assert not demo.names_hero_and_trait("Zippy blew bubbles.")


def test_only_complete_sentences_without_new_parts_are_judged() -> None:
    text = 'Once upon a time, there was a cat. It was sad. "Why?" asked Zip. It saw a bubble.\nThey ate. He went'
    assert [text[start:end] for start, end in demo.judged_sentences(text)] == ["It was sad.", '"Why?"', "They ate."]


def test_the_judge_prefers_english_to_shuffled_words(base: Any) -> None:
    good = ["One day, Lily went to the park. She saw a big red ball. She was very happy."]
    bad = ["One day, Lily went to the park. Big saw a she ball red. Happy was very she."]
    assert demo.rate_english(base, good) < demo.rate_english(base, bad) - 2


def test_new_parts_do_not_count_by_themselves(base: Any) -> None:
    plain = "One day, Tim went to the park. He was very happy."
    assert demo.rate_english(base, [plain]) == pytest.approx(
        demo.rate_english(base, [plain + " Zip zip bubble dragon hooray."]), rel=1e-4
    )
