"""The schema of /openapi.json and the answers agree, whatever is asked: schemathesis makes the questions."""

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from serving import Running

# What the schema allows may still be more than the model at hand can read, or a token that it does not know.
UNKNOWN_TO_THE_SCHEMA = [positive_data_acceptance]


def test_no_question_of_the_schema_breaks_it(server: Running) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
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
        _ask(operation)


def _ask(operation: Any) -> None:
    @given(case=operation.as_strategy())
    @settings(
        max_examples=12,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    def ask(case: Any) -> None:
        case.call_and_validate(excluded_checks=UNKNOWN_TO_THE_SCHEMA)

    ask()
