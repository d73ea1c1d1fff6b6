"""From rows to examples: conversations, pairs and instructions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from slm_data.errors import DataError
from slm_data.examples.columns import find_value, has_column
from slm_data.examples.data_formats import DataFormat
from slm_data.examples.messages import read_messages, text_content
from slm_data.examples.types import Conversation, Example, Message, Pair

Row = Mapping[str, Any]
Columns = Mapping[str, tuple[str, ...]]  # the columns of each part, see ``columns``

# Parts that a row of each format must have.
REQUIRED_PARTS: Mapping[DataFormat, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "instruction": ("instruction", "output"),
}


def detect_format(first: str | Row, columns: Columns, *, text_column: str | None) -> DataFormat:
    """Return the format of a source by its first row: that whose columns it has, else ``text``.

    Args:
        first: The row, or a text without columns.
        columns: The columns of each part.
        text_column: The text column that the user named, if any: then it is text.
    """
    if isinstance(first, str) or text_column is not None:
        return "text"
    formats = (
        data_format
        for data_format, parts in REQUIRED_PARTS.items()
        if all(has_column(first, columns[part]) for part in parts)
    )
    return next(formats, "text")


def columns_of(data_format: DataFormat, columns: Columns, available: Iterable[str]) -> list[str]:
    """Return those of the ``available`` columns that rows of ``data_format`` are read from."""
    parts = {
        "messages": ("messages", "system"),
        "prompt_completion": ("prompt", "completion"),
        "instruction": ("instruction", "input", "output", "system"),
    }[data_format]
    names = {name for part in parts for name in columns[part]}
    # The columns of nested values, and that of tools, which is refused where a row has them.
    names |= {name.partition(".")[0] for name in names} | {"tools"}
    return [name for name in available if name in names]


def read_examples(
    rows: Iterable[tuple[str | Row, str]], data_format: DataFormat, columns: Columns
) -> Iterator[Example]:
    """Yield the conversation or pair of each row.

    Args:
        rows: Rows with their file and line, for error messages.
        data_format: Not ``text``.
        columns: The columns of each part.

    Raises:
        DataError: A row lacks a column, or has something else in it.
    """
    read = _READERS[data_format]
    for row, where in rows:
        if isinstance(row, str):
            raise DataError(f"{where} has no columns; use --data_format text for it, or a file of rows, such as .jsonl")
        for part in REQUIRED_PARTS[data_format]:
            if not has_column(row, columns[part]):
                raise _missing_column(row, part, columns, data_format, where)
        yield read(row, columns, where)


def _read_messages(row: Row, columns: Columns, where: str) -> Example:
    messages = read_messages(find_value(row, columns["messages"]), where)
    _refuse_tools(row, where)
    return Conversation(_with_system(messages, row, columns, where), where)


def _read_pair(row: Row, columns: Columns, where: str) -> Example:
    prompt, completion = find_value(row, columns["prompt"]), find_value(row, columns["completion"])
    if isinstance(prompt, str) and isinstance(completion, str):
        return Pair(text_content(prompt, where), text_content(completion, where))
    if isinstance(prompt, str) or isinstance(completion, str) or prompt is None or completion is None:
        raise DataError(
            f"{where}: prompt and completion must both be texts or both be lists of messages, not "
            f"{type(prompt).__name__} and {type(completion).__name__}; repair or remove the row"
        )
    _refuse_tools(row, where)
    before = tuple(replace(message, is_completion=False) for message in read_messages(prompt, where))
    return Conversation((*before, *read_messages(completion, where)), where)


def _read_instruction(row: Row, columns: Columns, where: str) -> Example:
    instruction, context, output = (find_value(row, columns[part]) for part in ("instruction", "input", "output"))
    request = "\n\n".join(text_content(part, where) for part in (instruction, context) if part)
    answer = text_content(output if output is not None else "", where)
    messages = (Message("user", request), Message("assistant", answer, is_completion=True))
    return Conversation(_with_system(messages, row, columns, where), where)


_READERS: dict[DataFormat, Callable[[Row, Columns, str], Example]] = {
    "messages": _read_messages,
    "prompt_completion": _read_pair,
    "instruction": _read_instruction,
}


def _with_system(messages: tuple[Message, ...], row: Row, columns: Columns, where: str) -> tuple[Message, ...]:
    """Put the text of the column ``system`` first, unless the messages begin with one of the system."""
    system = find_value(row, columns["system"])
    if not system or (messages and messages[0].role == "system"):
        return messages
    return (Message("system", text_content(system, where)), *messages)


def _refuse_tools(row: Row, where: str) -> None:
    if row.get("tools"):
        raise DataError(f"{where} has tools, which are not supported; remove such conversations")


def _missing_column(row: Row, part: str, columns: Columns, data_format: DataFormat, where: str) -> DataError:
    names = " or ".join(map(repr, columns[part]))
    return DataError(
        f"{where} has no column {names} for --data_format {data_format}; name it with --columns {part}=COLUMN "
        f"(columns: {', '.join(map(str, row)) or 'none'})"
    )
