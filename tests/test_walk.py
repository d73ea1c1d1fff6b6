"""From end to end: two adapters are trained, one is merged, both are served and asked over HTTP."""

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
from slm_testing.workspace.servers import PATIENCE, serving

PROMPT = "Once upon a time"
NEW_TOKENS = 24


def walk(lora: Path, butterfly: Path, merged: Path) -> None:
    """Merge, serve and ask: what is served by name is the base, the adapter, and what merging makes of it."""
    assert run(["slm-adapters", "merge", str(butterfly), str(merged)]) == 0
    adapters = ["--adapter", f"red={lora}", "--adapter", f"blue={butterfly}"]
    with serving([str(ROOT / "scripts" / "serve.sh"), "--port", "0", "--threads", "1", *adapters]) as url:
        texts = {name: generated(url, name) for name in ("sample", "red", "blue")}
        assert len(set(texts.values())) == 3, texts
        assert {name: completed(url, name) for name in texts} == texts
    assert continued(merged) == texts["blue"]


def generated(url: str, adapter: str) -> str:
    body = {"prompt": PROMPT, "max_new_tokens": NEW_TOKENS, "temperature": 0, "adapter": adapter}
    answer = httpx.post(f"{url}/generate", json=body, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["text"])


def completed(url: str, model: str) -> str:
    client = OpenAI(base_url=f"{url}/v1", api_key="none", timeout=PATIENCE)
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=NEW_TOKENS, temperature=0)
    return answer.choices[0].text


def continued(folder: Path) -> str:
    """What transformers alone makes of the model in a folder, greedily."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def test_from_two_wrappers_to_answers_over_http(trained: Callable[[str], Path], tmp_path: Path) -> None:
    walk(trained("lora"), trained("butterfly"), tmp_path / "merged")


@pytest.mark.slow
def test_from_two_modes_compared_to_answers_over_http(workplace: Path, tmp_path: Path) -> None:
    small = ["--max_train_samples", "60", "--max_eval_samples", "6", "--max_steps", "10", "--threads", "1"]
    compare = ["slm-lab", "compare", "--dataset", "sample", "--modes", "lora,butterfly", *small]
    assert run([*compare, "--output_dir", str(tmp_path)]) == 0
    assert (tmp_path / "compare.html").is_file()
    walk(tmp_path / "lora", tmp_path / "butterfly", tmp_path / "merged")
