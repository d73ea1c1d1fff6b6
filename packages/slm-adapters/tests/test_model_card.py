"""Model cards: valid metadata, texts of any content shown as they are, nothing about the machine."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard as HubCard
from huggingface_hub import metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt

from slm_adapters import ModelCard, has_own_readme, remove_model_card, run_card, write_model_card

HOSTILE = [
    "--- \nlicense: mit\n---",
    "# A heading\n## Another",
    "<script>alert(1)</script> &amp; <!-- a comment",
    "```python\ncode\n```\n~~~",
    "> quoted\n1. one\n2) two\n- three\n+ four\n* five\n===\n---",
    "a | b | c\n|---|---|\n",
    "[link](http://example.com) ![image](x.png) www.example.com https://example.com *a* _b_ `c`",
    "    indented by four\n\tby a tab",
    "two paragraphs\n\n\nof text\\",
    "\x1b[31mred\x07 \x00 \u2028 line",
    "trailing backslash \\\nnext",
    "\"quotes\" 'single' $x$ @someone",
    "昔々、あるところに",
]


def record(**changes: Any) -> dict[str, Any]:
    """Return a run.json of a LoRA run on TinyStories."""
    evaluation = {"loss": 2.0, "perplexity": 7.39, "bits_per_byte": 1.1, "tokens": 1234, "block_size": 256}
    samples = [{"prompt": "Once upon a time", "text": "Once upon a time there was a dog."}]
    return {
        "mode": "lora",
        "status": "finished",
        "base": "distilbert/distilgpt2",
        "dataset": "tinystories",
        "hub": {"base": "distilbert/distilgpt2", "dataset": "roneneldan/TinyStories"},
        "date": "2026-11-29",
        "versions": {"slm-train": "0.6.0", "torch": "2.13.0"},
        "device": {"type": "cpu", "name": "CPU"},
        "data": {"train": {"documents": 80, "tokens": 9000}},
        "parameters": {"trainable": 100, "total": 1000},
        "memory": {"weights": 23e6, "peak": 80e6},
        "speed": {"steps": 7, "tokens": 5600, "train_seconds": 3.5},
        "evaluation": {"before": evaluation | {"perplexity": 20.0}, "after": evaluation},
        "samples": {"before": samples, "after": [samples[0] | {"text": "Once upon a time Zog."}]},
        "arguments": {"learning_rate": 2e-4, "output_dir": "/home/someone/outputs/x", "train_file": []},
    } | changes


def loaded_card(card: ModelCard, folder: Path) -> HubCard:
    assert write_model_card(folder, card)
    return HubCard.load(folder / "README.md")


def block_quotes(markdown: str) -> list[str]:
    """Return the text that each block quote of a page shows."""
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(markdown)
    texts, depth = [], 0
    for token in tokens:
        depth += {"blockquote_open": 1, "blockquote_close": -1}.get(token.type, 0)
        if token.type == "blockquote_open":
            texts.append("")
        elif token.type == "inline" and depth:
            shown = "".join(
                "\n" if child.type in ("hardbreak", "softbreak") else child.content for child in token.children or []
            )
            texts[-1] += ("\n\n" if texts[-1] else "") + shown
            assert {child.type for child in token.children or []} <= {"text", "text_special", "hardbreak"}
        else:
            assert not depth or token.type in ("paragraph_open", "paragraph_close", "blockquote_close")
    return texts


def test_the_metadata_is_what_the_hub_accepts(tmp_path: Path) -> None:
    data = loaded_card(run_card(record()), tmp_path).data.to_dict()
    results = data.pop("model-index")
    assert data == {
        "base_model": "distilbert/distilgpt2",
        "base_model_relation": "adapter",
        "datasets": ["roneneldan/TinyStories"],
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["slm", "lora"],
    }
    assert metadata_load(tmp_path / "README.md")["library_name"] == "peft"
    _, evaluated = model_index_to_eval_results(results)
    assert {(result.metric_type, result.metric_value, result.dataset_type) for result in evaluated} == {
        ("perplexity", 7.39, "roneneldan/TinyStories"),
        ("bits_per_byte", 1.1, "roneneldan/TinyStories"),
    }


@pytest.mark.parametrize(
    ("changes", "base", "datasets"),
    [
        ({"base": "sample", "dataset": "sample", "hub": {"base": None, "dataset": None}}, None, None),
        ({"base": "/home/someone/secret/model", "hub": {}}, None, None),
        ({"base": "models/mine", "hub": {"base": None}}, None, None),
        ({"base": "models/mine", "hub": "damaged"}, None, None),
        ({"base": "distilbert/distilgpt2", "hub": None}, "distilbert/distilgpt2", None),
        ({"hub": {"base": "a b/c\nlicense: mit", "dataset": "../x"}}, "distilbert/distilgpt2", None),
    ],
    ids=["built-in", "a-path", "a-relative-path", "damaged", "an-older-record", "not-an-id"],
)
def test_only_ids_of_the_hub_are_in_the_metadata(
    tmp_path: Path, changes: dict[str, Any], base: str | None, datasets: list[str] | None
) -> None:
    data = loaded_card(run_card(record(**changes)), tmp_path).data.to_dict()
    assert (data.get("base_model"), data.get("datasets"), data.get("license")) == (base, datasets, None)
    assert "model-index" not in data or datasets


def test_figures_on_the_users_own_validation_file_are_not_those_of_the_dataset() -> None:
    card = run_card(record(arguments={"validation_file": ["mine.txt"]}))
    assert "model-index" not in card.metadata().to_dict()
    assert card.metadata().datasets == ["roneneldan/TinyStories"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_sample_is_shown_as_it_is_and_breaks_nothing(tmp_path: Path, text: str) -> None:
    samples = {"before": [{"prompt": text, "text": text}], "after": [{"prompt": text, "text": f"{text} on"}]}
    card = loaded_card(run_card(record(samples=samples, dataset=text)), tmp_path)
    assert card.data.to_dict().keys() <= {
        *("base_model", "base_model_relation", "datasets", "library_name", "pipeline_tag", "tags", "model-index")
    }
    shown = block_quotes(card.text)
    assert len(shown) == 2
    expected = [re.sub(r"[\x00-\x08\x0b-\x1f\u2028]", "\ufffd", value.expandtabs(4)) for value in (text, f"{text} on")]
    assert [_words(part) for part in shown] == [_words(value) for value in expected]
    headings = [
        token.content
        for token in MarkdownIt("gfm-like", {"linkify": False}).parse(card.text)
        if token.type == "inline" and token.level == 1 and token.content in ("Evaluation", "Samples", "Use")
    ]
    assert headings == ["Evaluation", "Samples", "Use"]


def _words(text: str) -> list[list[str]]:
    """Return the words of each line that has any."""
    return [line.split() for line in unescape(text).splitlines() if line.strip()]


def test_indentation_and_line_breaks_of_a_sample_are_kept() -> None:
    text = "def f(x):\n    return x\n\nf(1)"
    shown = block_quotes(run_card(record(samples={"after": [{"prompt": "def", "text": text}]})).render())
    assert shown == [text.replace("    ", "\u00a0" * 4)]


@pytest.mark.parametrize("key", sorted(record()))
@pytest.mark.parametrize("value", [None, 3, "text", [], {}, [1], {"before": 1}, {"after": "text"}, True])
def test_a_damaged_record_leaves_things_out(tmp_path: Path, key: str, value: Any) -> None:
    card = loaded_card(run_card(record() | {key: value}), tmp_path)
    assert card.data.pipeline_tag == "text-generation"
    assert loaded_card(run_card({}), tmp_path).text


def test_a_sample_of_an_earlier_version_is_shown() -> None:
    old = record(samples={"before": "Once a", "after": "Once b"}, arguments={"prompt": "Once"})
    assert block_quotes(run_card(old).render()) == ["Once a", "Once b"]


def test_a_card_says_nothing_about_the_machine() -> None:
    page = run_card(
        record(base="/home/someone/secret/model", hub={}, machine={"node": "host-17"}, arguments={"token": "hf_abc"})
    ).render()
    assert "model" in page
    assert not [word for word in ("/home", "someone", "secret", "host-17", "hf_abc") if word in page]


def test_infinite_figures_stay_out_of_the_metadata(tmp_path: Path) -> None:
    evaluation = {"after": {"perplexity": float("inf"), "bits_per_byte": 1.0}}
    data = loaded_card(run_card(record(evaluation=evaluation)), tmp_path).data
    assert [result.metric_type for result in data.eval_results] == ["bits_per_byte"]
    assert yaml.safe_load(data.to_yaml())


def test_a_card_replaces_only_generated_ones(tmp_path: Path) -> None:
    readme, card = tmp_path / "README.md", run_card(record())
    assert not has_own_readme(tmp_path)
    assert write_model_card(tmp_path, card)
    assert write_model_card(tmp_path, card)
    readme.write_text("# Model Card for Model ID\n\n[More Information Needed]\n")  # PEFT's
    assert write_model_card(tmp_path, card)
    readme.write_text("# Mine\n")
    assert has_own_readme(tmp_path)
    assert not write_model_card(tmp_path, card)
    remove_model_card(tmp_path)
    assert readme.read_text() == "# Mine\n"
    readme.unlink()
    write_model_card(tmp_path, card)
    remove_model_card(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_record_of_json_is_enough(tmp_path: Path) -> None:
    assert (
        loaded_card(run_card(json.loads(json.dumps(record()))), tmp_path).text
        == loaded_card(run_card(record()), tmp_path).text
    )


def test_a_base_from_a_gguf_file_is_loaded_by_this_package_and_its_precision_is_shown() -> None:
    record = {"mode": "lora", "base": "/home/me/stories.gguf", "base_precision": "Q4_1 (GGUF)"}
    card = run_card(record).render()
    assert 'base = slm_adapters.load("path/to/stories.gguf").model' in card
    assert "AutoModelForCausalLM.from_pretrained" not in card.split("With PEFT")[1].split("With transformers")[0]
    assert r"| precision of the base file | Q4\_1 (GGUF) |" in card
