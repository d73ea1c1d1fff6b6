"""The schema of /openapi.json and the answers agree, whatever is asked: schemathesis makes the questions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from slm_testing.serve.running_server import Running, running

# What the schema allows may still be more than the model at hand can read, or a token that it does not know.
UNKNOWN_TO_THE_SCHEMA = [positive_data_acceptance]


@pytest.fixture(scope="module")
def small(tiny: Path) -> Iterator[Running]:
    with running(model_path=str(tiny), max_new_tokens=64) as found:
        yield found


@pytest.mark.parametrize("questions", [12, pytest.param(400, marks=pytest.mark.slow)])
def test_no_question_of_the_schema_breaks_it(small: Running, questions: int) -> None:
    schema = schemathesis.openapi.from_url(f"{small.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {operation.path for operation in operations} == {
        "/generate",
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{name}",
        "/tokenize",
        "/detokenize",
        "/health/live",
        "/health/ready",
        "/metrics",
    }
    for operation in operations:
        _ask(operation, questions)


def _ask(operation: Any, questions: int) -> None:
    @given(case=operation.as_strategy())
    @settings(
        max_examples=questions,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    def ask(case: Any) -> None:
        case.call_and_validate(excluded_checks=UNKNOWN_TO_THE_SCHEMA)

    ask()
