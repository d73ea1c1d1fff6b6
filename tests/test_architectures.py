"""Every architecture of the zoo is right or refused in one sentence, as docs/models.md says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForSeq2SeqLM, logging

from slm_data import harbour_stories, train_tokenizer
from slm_kv import KVError, create_engine, load
from slm_testing.workspace.readme_blocks import ROOT
from slm_testing.zoo.architecture import POSITIONS, VOCABULARY, Architecture
from slm_testing.zoo.checks.generation import ALL_CASES, EngineCase, engine_case
from slm_testing.zoo.checks.registry import CHECKS
from slm_testing.zoo.checks.training import causality
from slm_testing.zoo.models import ZOO, build, config_of
from slm_testing.zoo.not_causal import ENCODER_DECODERS, ENCODERS
from slm_testing.zoo.table import read_answers
from slm_train import main as slm_train

PAGE = ROOT / "docs" / "models.md"
DOCUMENTED = read_answers(PAGE.read_text())
REFUSED = {architecture.name: architecture for architecture in (*ENCODERS, *ENCODER_DECODERS)}


@pytest.fixture(autouse=True, scope="module")
def _one_thread_and_no_warnings() -> Iterator[None]:
    threads, verbosity = torch.get_num_threads(), logging.get_verbosity()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    yield
    torch.set_num_threads(threads)
    logging.set_verbosity(verbosity)


def known(name: str) -> Architecture:
    """Return an architecture, or skip the test if the installed transformers is too old for it."""
    architecture = ZOO[name]
    if architecture.model_type not in CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {architecture.model_type}")
    return architecture


def test_docs_models_md_has_every_architecture_and_column() -> None:
    assert list(DOCUMENTED) == list(ZOO)
    assert all(list(answers) == list(CHECKS) for answers in DOCUMENTED.values())


@pytest.mark.parametrize("column", CHECKS)
@pytest.mark.parametrize("name", ZOO)
def test_an_architecture_is_right_or_refused_as_documented(name: str, column: str) -> None:
    outcome = CHECKS[column](known(name))
    assert outcome.answer == DOCUMENTED[name][column], outcome.reason


@pytest.mark.parametrize("name", ZOO)
def test_a_decoder_is_causal(name: str) -> None:
    assert causality(known(name)).answer == "yes"


@pytest.mark.parametrize("architecture", ENCODERS, ids=lambda architecture: architecture.name)
def test_a_model_that_sees_later_tokens_is_refused(architecture: Architecture) -> None:
    assert causality(architecture).answer == "no"
    with pytest.raises(KVError, match=r"^[^\n]+$"):
        create_engine(build(architecture.name))


@pytest.mark.parametrize("architecture", ENCODER_DECODERS, ids=lambda architecture: architecture.name)
def test_a_model_with_an_encoder_is_refused_in_one_sentence(
    architecture: Architecture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    AutoModelForSeq2SeqLM.from_config(config_of(architecture)).save_pretrained(folder)
    train_tokenizer(harbour_stories(20, seed=1), VOCABULARY, model_max_length=POSITIONS).save_pretrained(folder)
    capsys.readouterr()
    assert slm_train(["--model_path", str(folder), "--output_dir", str(tmp_path / "run"), "--max_steps", "1"]) == 2
    error = capsys.readouterr().err.strip()
    assert error
    assert "\n" not in error
    with pytest.raises(KVError, match=r"^[^\n]+$"):
        create_engine(load(str(folder), dtype=torch.float32).model)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL_CASES, ids=str)
@pytest.mark.parametrize("name", ZOO)
def test_the_engine_is_right_or_refused_with_every_page_and_chunk_size(name: str, case: EngineCase) -> None:
    assert engine_case(known(name), case).answer == DOCUMENTED[name]["engine"]


@pytest.mark.slow
def test_docs_models_md_is_what_the_script_writes() -> None:
    subprocess.run([sys.executable, "scripts/model_table.py", "--check"], cwd=ROOT, check=True)
