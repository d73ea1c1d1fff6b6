"""End to end: two adapters are trained, one is merged, both are served and queried over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from transformers import AutoModelForCausalLM, AutoTokenizer

from slm_testing.workspace.capped_commands import run
from slm_testing.workspace.readme_blocks import ROOT
from slm_testing.workspace.servers import TIMEOUT, serving

PROMPT = "Once upon a time"
NEW_TOKENS = 24


def merge_serve_and_compare(lora: Path, butterfly: Path, merged: Path) -> None:
    """Base and adapters are served under their names, and the merged model gives its adapter's text."""
    assert run(["slm-adapters", "merge", str(butterfly), str(merged)]) == 0
    adapters = ["--adapter", f"red={lora}", "--adapter", f"blue={butterfly}"]
    with serving([str(ROOT / "scripts" / "serve.sh"), "--port", "0", "--threads", "1", *adapters]) as url:
        texts = {name: generated(url, name) for name in ("sample", "red", "blue")}
        assert len(set(texts.values())) == 3, texts
        assert {name: completed(url, name) for name in texts} == texts
    assert continued(merged) == texts["blue"]


def generated(url: str, adapter: str) -> str:
    body = {"prompt": PROMPT, "max_new_tokens": NEW_TOKENS, "temperature": 0, "adapter": adapter}
    response = httpx.post(f"{url}/generate", json=body, timeout=TIMEOUT)
    assert response.status_code == 200, response.text
    return str(response.json()["text"])


def completed(url: str, model: str) -> str:
    client = OpenAI(base_url=f"{url}/v1", api_key="none", timeout=TIMEOUT)
    completion = client.completions.create(model=model, prompt=PROMPT, max_tokens=NEW_TOKENS, temperature=0)
    return completion.choices[0].text


def continued(folder: Path) -> str:
    """The greedy text of the model in a folder, by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    output = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)
    return str(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))


def test_from_two_wrappers_to_responses_over_http(trained: Callable[[str], Path], tmp_path: Path) -> None:
    merge_serve_and_compare(trained("lora"), trained("butterfly"), tmp_path / "merged")


@pytest.mark.slow
def test_from_two_compared_modes_to_responses_over_http(readme_folder: Path, tmp_path: Path) -> None:
    small = ["--max_train_samples", "60", "--max_eval_samples", "6", "--max_steps", "10", "--threads", "1"]
    compare = ["slm-lab", "compare", "--dataset", "sample", "--modes", "lora,butterfly", *small]
    assert run([*compare, "--output_dir", str(tmp_path)]) == 0
    assert (tmp_path / "compare.html").is_file()
    merge_serve_and_compare(tmp_path / "lora", tmp_path / "butterfly", tmp_path / "merged")
