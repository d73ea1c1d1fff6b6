# /// script
# requires-python = ">=3.11"
# dependencies = ["llm>=0.27"]
# ///
"""Simon Willison's command ``llm``, with the server in ``extra-openai-models.yaml``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from checks import KEY, QUESTION, Weather, run

CONFIGURATION = """\
- model_id: slm
  model_name: {model}
  api_base: {url}
  supports_schema: true
"""


def _llm(url: str, model: str, *arguments: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "extra-openai-models.yaml").write_text(CONFIGURATION.format(url=url, model=model))
        environment = {**os.environ, "LLM_USER_PATH": folder, "OPENAI_API_KEY": KEY}
        command = [sys.executable, "-m", "llm", "-m", "slm", *arguments, QUESTION]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120).stdout


def basic(url: str, model: str) -> None:
    assert _llm(url, model, "--no-stream", "-o", "max_tokens", "8", "-s", "Be brief.").strip()


def streaming(url: str, model: str) -> None:
    assert _llm(url, model, "-o", "max_tokens", "8").strip()


def structured(url: str, model: str) -> None:
    schema = json.dumps(Weather.model_json_schema())
    Weather.model_validate_json(_llm(url, model, "--schema", schema, "-o", "max_tokens", "60"))


if __name__ == "__main__":
    run(basic, streaming, structured)
