"""Prompts that the model continues before and after training: those of the user, or from held-out documents.

Of conversations they are questions of the user, of pairs whole prompts, of texts the first words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from slm_data import Corpus, TokenStore
from slm_train.arguments import Arguments
from slm_train.data.example_prompts import example_prompts, prompt_length
from slm_train.data.rows import PrintLine, Tokens
from slm_train.errors import TrainError
from slm_train.model.base_model import BaseModel
from slm_train.run_folder.samples import recorded_prompts

STORY_PROMPTS = ("Once upon a time", "One day")  # openings in the language of the built-in corpus
_WORDS = 6
_TOKENS = 24  # upper bound for the words of a default prompt
_TOKENS_WITHOUT_WORDS = 8  # of a text in a language that writes no spaces
_READ = 64  # tokens of a document that are searched for its first words
_SHOWN = 40  # characters of a prompt in an error message


def choose_prompts(
    arguments: Arguments,
    base: BaseModel,
    corpus: Corpus,
    tokens: Tokens,
    record: dict[str, Any] | None,
    print_line: PrintLine,
) -> Arguments:
    """Return the options with the prompts of the run: recorded ones, those of the user, or default ones.

    Args:
        arguments: The options of the run.
        base: Its tokenizer and context length decide which prompts are possible.
        corpus: Default prompts of conversations and pairs are from its validation examples.
        tokens: Default prompts of texts are openings of its validation documents.
        record: The run.json of the run that is resumed: its prompts are kept, so that the texts can be compared.
        print_line: Prints a line.

    Raises:
        TrainError: For a prompt of the user that has no tokens or leaves no room in the model's context.
    """
    wanted = arguments.run.prompt
    if wanted and len(wanted) > 2 and all(len(text.split()) == 1 for text in wanted):
        print_line(f"--prompt: {len(wanted)} texts of one word each; write one text of several words in quotes")
    prompts = recorded_prompts(record) if record else None
    if prompts is None:
        prompts = (
            _default_prompts(arguments, base, corpus, tokens) if wanted is None else [text for text in wanted if text]
        )
        for prompt in prompts:
            _check_prompt(prompt, base)
    elif wanted is not None and [text for text in wanted if text] != prompts:
        print_line("--prompt has no effect on a resumed run: it keeps the prompts that it was started with")
    return replace(arguments, run=replace(arguments.run, prompt=prompts))


def _check_prompt(prompt: str, base: BaseModel) -> None:
    shown = prompt if len(prompt) <= _SHOWN else f"{prompt[:_SHOWN]}..."
    if not _token_count(base.tokenizer, prompt, special=False):
        raise TrainError(
            f"--prompt {shown!r} has no tokens in the vocabulary of {base.tokenizer_name or 'the new tokenizer'}; give "
            "another text, or an empty one for no samples"
        )
    count, context = prompt_length(base, prompt), base.context_length
    if context and count >= context:
        raise TrainError(
            f"--prompt {shown!r} has {count:,} tokens, and the {context:,} tokens of context of "
            f"{base.name or 'the model'} leave no room for a continuation; give a shorter text"
        )


def _default_prompts(arguments: Arguments, base: BaseModel, corpus: Corpus, tokens: Tokens) -> list[str]:
    """Return up to two prompts of at most half a block each, so that the continuation has as much room."""
    if corpus.validation.data_format != "text":
        return example_prompts(base, corpus.validation, tokens.block_size // 2)
    limit = min(_TOKENS, tokens.block_size // 2)
    is_sample = not arguments.source.train_file and (arguments.source.dataset or "sample").lower() == "sample"
    if is_sample:
        counts = {prompt: _token_count(base.tokenizer, prompt, special=True) for prompt in STORY_PROMPTS}
        return [prompt for prompt, count in counts.items() if 0 < count <= limit]
    documents = len(tokens.validation.lengths)
    openings = _openings(tokens.validation, base.tokenizer, limit, range(documents))
    first = next(openings, None)
    rest = (*range(documents // 2, documents), *range(documents // 2))
    others = (text for text in _openings(tokens.validation, base.tokenizer, limit, rest) if text != first)
    return [text for text in (first, next(others, None)) if text]


def _openings(store: TokenStore, tokenizer: PreTrainedTokenizerBase, limit: int, documents: Any) -> Iterator[str]:
    """Yield the opening of each document that has one."""
    for document in documents:
        if opening := _opening(store, tokenizer, limit, document):
            yield opening


def _opening(store: TokenStore, tokenizer: PreTrainedTokenizerBase, limit: int, document: int) -> str:
    """Return the first words of a document's first line, never the whole document; empty if it is too short.

    Without enough words, as in languages without spaces, they are its first tokens.
    """
    start, length = int(store.lengths[:document].sum()), int(store.lengths[document])
    ids = store.tokens[start : start + min(length, _READ)].tolist()
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    is_whole = length <= _READ and len(lines) == 1
    words = lines[0][: min(_WORDS, len(lines[0]) // 2 if is_whole else len(lines[0]))]
    opening = " ".join(words)
    # A single long "word" may be a sentence without spaces, and is a fragment where the text was cut.
    if len(words) > 1 and _token_count(tokenizer, opening, special=True) <= limit:
        return opening
    count = min(limit, _TOKENS_WITHOUT_WORDS, (length - 1) // 2)
    # The last character may be incomplete: a token of a byte-level vocabulary can be a part of one.
    start_of_text = str(tokenizer.decode(ids[:count], skip_special_tokens=True)).rstrip("\ufffd")
    opening = " ".join(start_of_text.split())
    return opening if 0 < _token_count(tokenizer, opening, special=True) <= limit else ""


def _token_count(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> int:
    return len(tokenizer(text, add_special_tokens=special)["input_ids"])
