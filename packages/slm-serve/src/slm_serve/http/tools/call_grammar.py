"""The grammar of an answer with tool calls."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from slm_kv import Grammar
from slm_serve.http.schemas.tools import FunctionDefinition
from slm_serve.http.tools.call_format import CallFormat

Schema = dict[str, Any]


def call_grammar(
    functions: Sequence[FunctionDefinition],
    form: CallFormat,
    special_ids: Mapping[str, int],
    *,
    required: bool,
    parallel: bool,
    answer: Grammar | None = None,
    end: str = "",
) -> Grammar:
    """Return the grammar of an answer.

    Args:
        functions: Those that may be called.
        form: How calls are written.
        special_ids: The special tokens of the vocabulary.
        required: Whether the answer must be a call; otherwise it may be any text, with calls at its end.
        parallel: Whether there may be several calls.
        answer: The format of an answer without calls: a JSON schema or any JSON object.
        end: How the model ends its turn if it has no token for that.
    """
    separator = form.separator if parallel else None
    more = f"({_sequence(separator, special_ids)} call)*" if separator else ""
    suffix = _sequence(form.suffix, special_ids) + (f" {json.dumps(end, ensure_ascii=False)}?" if end else "")
    rules = [f"call: {' | '.join(f'function{number}' for number in range(len(functions)))}"]
    for number, function in enumerate(functions):
        head = _sequence(function.name + form.middle, special_ids)
        rules.append(f"function{number}: {head} {Grammar.schema_rule(arguments_schema(function))}")
    prefix = _sequence(form.prefix, special_ids)
    if required:
        rules.append(f"start: {prefix} call {more} {suffix}")
    elif answer is not None:
        rules.append(f"start: answer | {prefix} call {more} {suffix}")
        rules.append(f"answer: {Grammar.schema_rule({'type': 'object'} if not answer.text else answer.data)}")
    else:
        rules += _optional_calls(form, special_ids, f"call {more} {suffix}")
    return Grammar("lark", "\n".join(rules))


def arguments_schema(function: FunctionDefinition) -> Schema:
    """Return the schema of the arguments, which are an object; a function without parameters has none."""
    return {"type": "object", **({"properties": {}} if function.parameters is None else function.parameters)}


def _optional_calls(form: CallFormat, special_ids: Mapping[str, int], calls: str) -> list[str]:
    """Return the rules of an answer that may be a text, a text and calls, or calls."""
    marker = next((name for name in special_ids if form.prefix.startswith(name)), None)
    if marker:  # a special token, which is not a part of texts
        return [f"start: TEXT? ({_sequence(form.prefix, special_ids)} {calls})?", "TEXT: /(?s:.+)/"]
    if form.marker:  # the first one in the text begins a call
        rest = _sequence(form.prefix.removeprefix(form.marker), special_ids)
        head = f"head[lazy]: TEXT {json.dumps(form.marker, ensure_ascii=False)}"
        return [f"start: text | head {rest} {calls}", head, "text: TEXT", "TEXT: /(?s:.*)/"]
    # Calls begin like JSON: such an answer is calls, any other one is a text.
    first = re.escape(form.prefix[0])
    python_tag = special_ids.get("<|python_tag|>")  # Llama 3.1 may write it before a call
    optional = f"<[{python_tag}]>? " if python_tag is not None else ""
    rules = [f"start: TEXT | {optional}{_sequence(form.prefix, special_ids)} {calls}"]
    return [*rules, f"TEXT: /[^{first}](?s:.*)/"]


def _sequence(text: str, special_ids: Mapping[str, int]) -> str:
    """Return ``text`` as literals and special tokens."""
    return " ".join(_parts(text, special_ids)) or '""'


def _parts(text: str, special_ids: Mapping[str, int]) -> Iterator[str]:
    names = sorted((name for name in special_ids if name in text), key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
    for piece in pieces:
        if piece in special_ids:
            yield f"<[{special_ids[piece]}]>"
        elif piece:
            yield json.dumps(piece, ensure_ascii=False)
