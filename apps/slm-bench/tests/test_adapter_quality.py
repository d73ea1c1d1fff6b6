"""``slm-bench adapters --only quality``: sizes of methods, texts, training, stored runs, and tables."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from slm_bench.adapters.base_models import load_base
from slm_bench.adapters.quality import comparison
from slm_bench.adapters.quality.families import FAMILIES, LORA, Family
from slm_bench.adapters.quality.measurement import Learnt, Study
from slm_bench.adapters.quality.run_store import Run, RunStore
from slm_bench.adapters.quality.sizing import SLACK, Sizing
from slm_bench.adapters.quality.texts import Rows, Texts, read_texts
from slm_bench.adapters.quality.training import evaluate, search_rate, train
from slm_bench.errors import BenchError
from slm_data import sample_base
from slm_testing.bench.command_runs import SMALL_ADAPTERS, CommandRun, run_bench
from slm_testing.bench.command_runs import comparison as comparison_of

TARGETS = ["c_attn"]
R1 = 6 * (256 + 768)  # parameters of LoRA r=1 on c_attn of the built-in base


@pytest.fixture(scope="module")
def base() -> Any:
    return load_base("sample", "cpu")


@pytest.fixture(scope="module")
def texts() -> Texts:
    ids = torch.randint(3, 2000, (12, 8), generator=torch.Generator().manual_seed(0))
    rows = Rows(ids, ids, 0.25)
    return Texts(rows, rows, None)


def family(short: str) -> Family:
    return next(each for each in FAMILIES if each.short == short)


def test_the_command_compares_with_lora_at_the_same_size(adapters_run: CommandRun) -> None:
    table = comparison_of(adapters_run, "quality on harbour from sample, 1 steps of 1 x 8, at the size of LoRA r=1")
    rows = {row["name"]: row for row in table["rows"]}
    assert list(rows) == ["before training", "LoRA, r=1", "butterfly, narrower side, 8 stages"]
    assert rows["LoRA, r=1"]["ratios"] == {}
    assert rows["LoRA, r=1"]["figures"]["trainable"] == R1
    before, lora, butterfly = (row["figures"]["bits/byte"] for row in rows.values())
    assert max(lora, butterfly) < before
    assert float(rows["LoRA, r=1"]["figures"][comparison.OWN]) == pytest.approx(1, abs=0.2)


def test_the_learning_rate_is_searched_on_a_seed_that_is_not_counted(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    flags = ["--only", "quality", "--full", "--steps", "1", "--seeds", "2", "--methods", "lora", "--ranks", "1"]
    first = run_bench(tmp_path, "adapters", *SMALL_ADAPTERS, *flags, "--runs", str(file))
    (learnt,) = first.result["results"]["quality"]["learnt"]
    assert len(learnt["losses"]) == 2
    lines = file.read_bytes()
    runs = [json.loads(line) for line in lines.splitlines()]
    assert {str(run["rate"]) for run in runs if run["seed"] == 0} == learnt["tried"].keys()
    assert [(run["seed"], run["rate"]) for run in runs if run["seed"]] == [(1, learnt["rate"]), (2, learnt["rate"])]
    again = run_bench(tmp_path, "adapters", *SMALL_ADAPTERS, *flags, "--runs", str(file))
    assert again.result["results"]["quality"] == first.result["results"]["quality"]
    assert file.read_bytes() == lines


@pytest.mark.parametrize("short", ["lora", "butterfly-auto", "butterfly-both-scale", "oft", "hra", "loha"])
def test_methods_have_about_as_many_parameters_as_lora(base: Any, short: str) -> None:
    learner = Sizing(base, TARGETS, family(short)).learner(4 * R1)
    assert learner is not None
    assert 0.5 * 4 * R1 <= learner.trainable <= SLACK * 4 * R1


def test_a_size_that_would_have_more_parameters_is_not_taken(base: Any) -> None:
    """With a stage more, or a rank more, it would be above the limit."""
    sizing = Sizing(base, TARGETS, family("butterfly-both"))
    learner = sizing.learner(4 * R1)
    assert learner is not None
    index = next(i for i in sizing.fitting if sizing.count(i) == learner.trainable)
    assert sizing.count(index + 1) > SLACK * 4 * R1


@pytest.mark.parametrize(
    ("short", "targets", "reason"),
    [("ia3", TARGETS, "no size has about 24,576 parameters"), ("road", ["c_atn"], "c_atn")],
)
def test_a_method_without_a_comparable_size_is_left_out_with_the_reason(
    base: Any, short: str, targets: list[str], reason: str
) -> None:
    sizing = Sizing(base, targets, family(short))
    assert sizing.learner(4 * R1) is None
    assert reason in sizing.why_not(4 * R1)


def test_a_block_size_that_peft_would_replace_is_no_size() -> None:
    config = LlamaConfig(vocab_size=8, hidden_size=12, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2)
    sizing = Sizing(LlamaForCausalLM(config), ["q_proj"], family("oft"))
    assert [sizing.family.sizes[index] for index in sizing.fitting] == [2, 4]


def test_only_answers_of_conversations_have_a_loss() -> None:
    tokenizer = AutoTokenizer.from_pretrained(sample_base())
    rows, _ = read_texts("conversations", tokenizer, 128, train=1, held_out=1)
    ids, labels = rows.input_ids[0], rows.labels[0]
    question, answer = str(tokenizer.decode(ids)).split("Assistant:")
    assert "How does this story go on?" in question
    assert tokenizer.decode(ids[labels >= 0]) == answer.removesuffix("<|endoftext|>") + "<|endoftext|>"


def test_the_loss_is_the_mean_over_predicted_tokens_however_rows_are_batched(base: Any) -> None:
    ids = torch.randint(3, 2000, (3, 8), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[0, 2:] = -100
    rows = Rows(ids, labels, 1.0)
    logits = base.eval()(input_ids=ids).logits[:, :-1].log_softmax(-1)
    losses = -logits.gather(-1, ids[:, 1:, None])[..., 0]
    expected = losses[labels[:, 1:] >= 0].mean()
    assert evaluate(base, rows, batch_tokens=8) == pytest.approx(float(expected), rel=1e-5)
    assert evaluate(base, rows, batch_tokens=16) == pytest.approx(float(expected), rel=1e-5)


def test_seeds_differ_in_rows_and_in_initial_weights(base: Any, texts: Texts) -> None:
    study = Study(base, TARGETS, texts, 1, 4, 1, False, False, RunStore(None), {})
    learner = Sizing(base, TARGETS, LORA).learner(R1)
    assert learner is not None
    first, same, other = (study.attach(learner, seed).state_dict() for seed in (1, 1, 2))
    name = next(name for name in first if "lora_A" in name)
    assert torch.equal(first[name], same[name])
    assert not torch.equal(first[name], other[name])
    runs = {
        seed: train(lambda _: study.attach(learner, 1), texts, rate=1e-2, seed=seed, steps=1, batch_rows=4)
        for seed in (1, 2)
    }
    assert runs[1] != runs[2]


def test_a_run_cut_off_while_it_was_written_is_repeated(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    RunStore(str(file)).get({"seed": 1}, lambda: Run(1.0, None))
    RunStore(str(file)).get({"seed": 2}, lambda: Run(math.inf, 2.0))
    assert RunStore(str(file)).runs.keys() == RunStore(str(file)).runs.keys()
    file.write_bytes(file.read_bytes()[:-5])
    store = RunStore(str(file))
    assert store.get({"seed": 1}, lambda: pytest.fail("it is stored")) == Run(1.0, None)
    assert store.get({"seed": 2}, lambda: Run(3.0, None)) == Run(3.0, None)
    assert RunStore(str(file)).runs == store.runs


def test_a_file_of_something_else_is_refused_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    RunStore(str(file)).get({"seed": 1}, lambda: Run(1.0, None))
    file.write_text(file.read_text() + '{"name": 1}\n')
    with pytest.raises(BenchError, match="line 2 is not a run"):
        RunStore(str(file))


def learnt(name: str, *losses: float) -> Learnt:
    return Learnt(name, 4, 100, 1e-2, {}, losses, (1.0,) * len(losses))


def test_ratios_are_taken_seed_by_seed(texts: Texts) -> None:
    results = [
        learnt("LoRA, r=4", 3.0, 4.0, 5.0),
        learnt("other", 2.9, 3.9, 4.9),
        learnt("diverged", 2.0, math.inf, 2.0),
    ]
    (table,) = comparison.compare(results, texts, Run(5.0, 0.5), "quality")
    rows = {row.name: row for row in table.rows}
    assert rows["other"].ratios[comparison.RATIO] == pytest.approx([math.exp(-0.1)] * 3)
    assert str(rows["other"].figures[comparison.OWN]).startswith(f"{math.exp(0.5):.4f}")
    assert rows["diverged"].ratios == {}


@pytest.mark.parametrize(("best", "beyond"), [(16.0, [8.0, 16.0, 32.0]), (0.25, [0.5, 0.25, 0.125]), (2.0, [])])
def test_a_search_continues_while_the_best_rate_lies_at_the_edge(best: float, beyond: list[float]) -> None:
    tried = search_rate((1.0, 2.0, 4.0), lambda rate: abs(rate - best))
    assert list(tried) == [1.0, 2.0, 4.0, *beyond]


def test_a_run_that_diverges_is_never_the_best() -> None:
    tried = search_rate((1.0, 2.0, 4.0), lambda rate: float("inf") if rate > 1 else -rate)
    assert min(tried, key=lambda rate: tried[rate]) == 1.0
