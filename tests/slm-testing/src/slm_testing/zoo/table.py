"""docs/models.md: what each architecture can do, as a Markdown table with footnotes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from slm_testing.zoo.architecture import Architecture
from slm_testing.zoo.checks.outcome import Outcome
from slm_testing.zoo.checks.registry import CHECKS
from slm_testing.zoo.models import FAMILIES

Results = Mapping[str, Mapping[str, Outcome]]  # outcomes by architecture and column

_INTRODUCTION = """\
# Model architectures

Any causal language model of transformers can be trained and served; what can be done with it depends on how it is
built. Nothing is looked up in a list of names: each property is verified on the loaded model. This table shows the
result for {count} tiny models with random weights. Every *yes* was compared with transformers' own computation, and
every *no* is a refusal in one sentence, or a slower correct way that is taken instead.

| column | *yes* means |
|---|---|
| packing | Several documents share a row without influencing each other. *no*: `slm-train` uses `--packing none`. |
| fused loss | Output layer and loss are computed together, which saves memory, with the same loss and gradients. \
*no*: the model's own loss is used. |
| LoRA, butterfly | The default target layers work: a new adapter changes nothing, and a trained one can be merged. |
| engine | slm-kv's engine with a paged cache generates the text of `generate`: several prompts together, prompts in \
chunks, pages of any size. |
| window | For models with sliding windows or chunks: so does a text that is longer than the window. |
| serve | The engine that `slm-serve` chooses: *pages*, or *transformers* for transformers' own generation. |

Written by `uv run python scripts/model_table.py` with transformers {version}.
"""
# What differs between models that are refused for the same reason: class names and measured numbers.
_CLASS_NAME = re.compile(r"\b\w+(?:ForCausalLM|LMHeadModel|ForConditionalGeneration)\b")
_REMEDY = "; use the model's own generate"  # which the engine of the column "serve" does
_MEASURED = re.compile(r" \([^()]*\d[^()]*\)")


def render(results: Results, version: str) -> str:
    """Return the whole page.

    Args:
        results: The outcome of every check for every architecture.
        version: That of transformers.
    """
    footnotes: dict[str, int] = {}
    tables = [line for family, members in FAMILIES.items() for line in _table(family, members, results, footnotes)]
    notes = [f"[^{number}]: {sentence}." for sentence, number in footnotes.items()]
    introduction = _INTRODUCTION.format(count=len(results), version=version)
    return "\n".join([introduction, *tables, *notes]) + "\n"


def read_answers(page: str) -> dict[str, dict[str, str]]:
    """Return the answers in a page by architecture and column, without footnotes."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    answers = {}
    columns: list[str] = []
    for name, *cells in rows:
        if name == "architecture":
            columns = cells
        elif columns and not name.startswith("-"):
            answers[name] = dict(zip(columns, (cell.partition(" ")[0] for cell in cells), strict=True))
    return answers


def _table(
    family: str, members: tuple[Architecture, ...], results: Results, footnotes: dict[str, int]
) -> Iterator[str]:
    yield f"## {family}"
    yield ""
    yield _row("architecture", *CHECKS)
    yield "|---" * (len(CHECKS) + 1) + "|"
    for architecture in members:
        outcomes = results[architecture.name]
        yield _row(architecture.name, *(_cell(outcomes[column], footnotes) for column in CHECKS))
    yield ""


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(outcome: Outcome, footnotes: dict[str, int]) -> str:
    if not outcome.reason:
        return outcome.answer
    sentence = _MEASURED.sub("", _CLASS_NAME.sub("the model", outcome.reason)).removesuffix(_REMEDY)
    number = footnotes.setdefault(sentence[0].upper() + sentence[1:], len(footnotes) + 1)
    return f"{outcome.answer} [^{number}]"
