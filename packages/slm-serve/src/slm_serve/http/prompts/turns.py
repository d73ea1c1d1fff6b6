"""Messages as the turns that a chat template renders, rewritten where the template would lose some of them.

A template may reject system messages and results of tools, or leave them out without a word, as it may the calls of
tools. That is found out by rendering turns of the same roles whose contents are markers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from typing import Any

from jinja2.exceptions import TemplateError

from slm_data import ChatTemplate
from slm_serve.errors import RequestError
from slm_serve.http.schemas.messages import Message, ToolCall

Turn = dict[str, Any]
Shape = tuple[tuple[str, int], ...]  # the role of each message, and its number of calls
TEMPLATE_ERRORS = (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def chat_turns(template: ChatTemplate, tokenizer: Any, messages: Sequence[Message]) -> list[Turn]:
    """Return the turns of ``messages``, all of which the template renders.

    A developer is the system, unless the template knows developers. If the template loses or rejects turns as they
    are, calls get other ids, system messages become the beginning of the next user turn, or calls of tools become JSON,
    and their results user turns.

    Raises RequestError 422 if the template loses or rejects turns even so.
    """
    shape = tuple((message.role, len(message.calls)) for message in messages)
    turns = [_turn(message, template) for message in messages]
    if template.is_plain and not any(role in ("tool", "function") or calls for role, calls in shape):
        return turns
    return reduce(lambda result, rewrite: rewrite(result), _rewrites(template, tokenizer, shape), turns)


@lru_cache(maxsize=256)
def _rewrites(template: ChatTemplate, tokenizer: Any, shape: Shape) -> tuple[Callable[[list[Turn]], list[Turn]], ...]:
    """Return the fewest rewrites with which the template renders turns of this shape. Raises RequestError."""
    probes = [_turn(_probe(index, *message), template) for index, message in enumerate(shape)]
    reasons = []
    for rewrites in _REWRITES:
        turns = reduce(lambda result, rewrite: rewrite(result), rewrites, probes)
        reason = _loss(template, tokenizer, turns, shape)
        if reason is None:
            return rewrites
        reasons.append(reason)
    raise RequestError(422, f"the model's chat template rejects these messages: {reasons[0]}", param="messages")


def render(template: ChatTemplate, tokenizer: Any, turns: Sequence[Turn], **options: Any) -> str:
    """Return the text of ``turns``. Raises one of TEMPLATE_ERRORS."""
    return str(tokenizer.apply_chat_template(turns, chat_template=template.source, tokenize=False, **options))


def _loss(template: ChatTemplate, tokenizer: Any, turns: Sequence[Turn], shape: Shape) -> str | None:
    """Return why the template does not render all of the turns, made of probes; None if it does."""
    try:
        text = render(template, tokenizer, turns, add_generation_prompt=True)
    except TEMPLATE_ERRORS as error:
        return str(error) or type(error).__name__
    for index, (role, calls) in enumerate(shape):
        markers = [_marker(index)] if not calls else []
        markers += [_marker(index, call, part) for call in range(calls) for part in ("name", "argument")]
        if any(marker not in text for marker in markers):
            return f"it leaves out message {index + 1}, of the role {role!r}"
    return None


def _marker(*parts: int | str) -> str:
    return f"slm{'of'.join(map(str, parts))}x"


def _probe(index: int, role: Any, calls: int) -> Message:
    """Return a message of markers; one with calls has no other content, as templates may write only one of both."""
    functions = [
        {"name": _marker(index, call, "name"), "arguments": json.dumps({"key": _marker(index, call, "argument")})}
        for call in range(calls)
    ]
    tool_calls = [ToolCall.model_validate({"id": f"call{n}", "function": each}) for n, each in enumerate(functions)]
    call_id = "call0" if role == "tool" else None
    content = "" if calls else _marker(index)
    return Message(role=role, content=content, tool_calls=tool_calls or None, tool_call_id=call_id)


def _turn(message: Message, template: ChatTemplate) -> Turn:
    role = {"function": "tool", "developer": _developer(template)}.get(message.role, message.role)
    turn: Turn = {"role": role, "content": message.text}
    if role == "tool":
        turn |= {"name": message.name, "tool_call_id": message.tool_call_id}
    if message.calls:
        turn["tool_calls"] = [_call(call) for call in message.calls]
    return turn


def _developer(template: ChatTemplate) -> str:
    return "developer" if "developer" in template.source else "system"


def _call(call: ToolCall) -> Turn:
    """Return a call for a template, which expects arguments as an object (transformers' convention)."""
    function = {"name": call.function.name, "arguments": _arguments(call.function.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _arguments(text: str) -> Any:
    """Return the arguments as an object; as they are if a model wrote something else."""
    try:
        arguments = json.loads(text or "{}")
    except ValueError:
        return text
    return arguments if isinstance(arguments, dict) else text


def _tools_as_text(turns: list[Turn]) -> list[Turn]:
    """Write calls of tools as JSON of the assistant, and their results as one turn of the user with what follows."""
    names, result, after_tool = _tool_names(turns), list[Turn](), False
    for turn in turns:
        if after_tool and turn["role"] in ("tool", "user"):
            result[-1]["content"] += "\n\n" + _as_text(turn, names)
        else:
            role = "user" if turn["role"] == "tool" else turn["role"]
            result.append({"role": role, "content": _as_text(turn, names)})
            after_tool = turn["role"] == "tool"
    return result


def _as_text(turn: Turn, names: dict[Any, str]) -> str:
    if turn["role"] == "tool":
        name = turn["name"] or names.get(turn["tool_call_id"])
        return f"Result of {name}: {turn['content']}" if name else f"Tool result: {turn['content']}"
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in turn.get("tool_calls", ())]
    return "\n".join([turn["content"], *calls] if turn["content"] else calls)


def _tool_names(turns: Sequence[Turn]) -> dict[Any, str]:
    """Return the names of called functions by the ids of the calls."""
    calls = [call for turn in turns for call in turn.get("tool_calls", ())]
    return {call["id"]: call["function"]["name"] for call in calls if call["id"]}


def _short_ids(turns: list[Turn]) -> list[Turn]:
    """Give calls the ids that Mistral's templates demand: nine letters and digits, alike for calls and results."""
    result = []
    for turn in turns:
        changed = dict(turn)
        if turn.get("tool_call_id"):
            changed["tool_call_id"] = _short_id(turn["tool_call_id"])
        if calls := turn.get("tool_calls"):
            changed["tool_calls"] = [call | {"id": _short_id(call["id"])} for call in calls]
        result.append(changed)
    return result


def _short_id(call_id: str | None) -> str:
    return hashlib.blake2b((call_id or "").encode()).hexdigest()[:9]


def _merge_system(turns: list[Turn]) -> list[Turn]:
    """Write system messages before the next turn of the user."""
    result, system = list[Turn](), list[str]()
    for turn in turns:
        if turn["role"] in ("system", "developer"):
            system.append(turn["content"])
        elif turn["role"] == "user" and system:
            result.append({"role": "user", "content": "\n\n".join([*system, turn["content"]])})
            system.clear()
        else:
            result.append(turn)
    return [*result, {"role": "user", "content": "\n\n".join(system)}] if system else result


# From the fewest changes to the most.
_REWRITES: tuple[tuple[Callable[[list[Turn]], list[Turn]], ...], ...] = (
    (),
    (_short_ids,),
    (_merge_system,),
    (_short_ids, _merge_system),
    (_tools_as_text,),
    (_tools_as_text, _merge_system),
)
