"""The card of a merged model: from the record of its adapter's run, or from the adapter alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard as HubCard

from slm_adapters import Loaded, load, write_model
from slm_adapters.cli import main
from slm_adapters.merging.merged_card import merged_card
from slm_testing.adapters.tiny_adapters import MakeModel, Save, edit_json, refusal, with_butterfly

EVALUATION = {"perplexity": 20.0, "bits_per_byte": 1.5, "tokens": 99, "block_size": 64}
RECORD = {
    "dataset": "tinystories",
    "hub": {"base": None, "dataset": "roneneldan/TinyStories"},
    "evaluation": {"before": EVALUATION, "after": EVALUATION | {"perplexity": 10.0}},
    "samples": {"after": [{"prompt": "One day", "text": "One day, Zog."}]},
}


@pytest.fixture
def merged(run: Path) -> Loaded:
    return load(run, merge=True)


def test_it_has_the_figures_of_the_run_and_says_whose_they_are(run: Path, tmp_path: Path) -> None:
    edit_json(run / "run.json", **RECORD)
    assert main(["merge", str(run), str(tmp_path / "out")]) == 0
    card = HubCard.load(tmp_path / "out" / "README.md")
    data = card.data.to_dict()
    assert data["datasets"] == ["roneneldan/TinyStories"]
    assert (data["library_name"], data["tags"]) == ("transformers", ["slm", "lora", "merged"])
    assert "base_model" not in data  # the base is a folder of this machine
    assert "| perplexity | 20.00 | 10.00 |" in card.text
    assert "those of the adapter before it was merged" in card.text
    assert "> One day, Zog." in card.text
    assert "slm_adapters" not in card.text  # transformers alone loads it
    assert str(tmp_path) not in card.content


@pytest.mark.parametrize("record", [None, "{}", '{"mode": 3, "samples": [1], "hub": "x", "evaluation": null}'])
def test_an_adapter_without_a_usable_record_has_a_card_too(run: Path, tmp_path: Path, record: str | None) -> None:
    (run / "run.json").unlink()
    if record:
        (run / "run.json").write_text(record)
    assert main(["merge", str(run), str(tmp_path / "out")]) == 0
    card = HubCard.load(tmp_path / "out" / "README.md")
    assert card.data.pipeline_tag == "text-generation"
    assert "base-gpt2" in card.text
    assert str(tmp_path) not in card.content


def test_the_method_of_an_adapter_without_a_record_is_in_its_card(tiny: MakeModel, save: Save, tmp_path: Path) -> None:
    run = save(with_butterfly(tiny("gpt2")))
    (run / "run.json").unlink()
    assert main(["merge", str(run), str(tmp_path / "out")]) == 0
    assert HubCard.load(tmp_path / "out" / "README.md").data.tags == ["slm", "butterfly", "merged"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("distilbert/distilgpt2", "distilbert/distilgpt2"), ("OWNER/NAME", "OWNER/NAME"), ("sample", None)],
)
@pytest.mark.parametrize("record", [None, {}, RECORD, RECORD | {"base": "distilbert/distilgpt2", "hub": None}])
def test_a_base_that_was_loaded_from_the_hub_is_named_by_its_id(
    run: Path, merged: Loaded, name: str, expected: str | None, record: dict[str, Any] | None
) -> None:
    (run / "run.json").unlink()
    if record is not None:
        (run / "run.json").write_text(json.dumps(record | {"base": name}))
    card = merged_card(replace(merged, base=name))
    assert card is not None
    assert (card.metadata().base_model, card.metadata().to_dict().get("base_model_relation")) == (
        expected,
        "finetune" if expected else None,
    )
    assert card.render().count("local model") == 0


def test_a_base_without_an_adapter_has_no_card(base: Path, tmp_path: Path) -> None:
    loaded = load(base)
    assert merged_card(loaded) is None
    write_model(loaded, tmp_path / "out")
    assert not (tmp_path / "out" / "README.md").exists()


def test_a_readme_of_the_user_is_kept_and_a_refusal_writes_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["merge", str(run), str(out)]) == 0
    (out / "README.md").write_text("mine")
    refusal(capsys, "merge", run, out)
    assert main(["merge", str(run), str(out), "--overwrite"]) == 0
    assert (out / "README.md").read_text() == "mine"
    assert f"{out / 'README.md'} is your own and was left as it is" in capsys.readouterr().out
