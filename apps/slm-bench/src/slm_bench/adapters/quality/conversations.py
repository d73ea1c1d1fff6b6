"""``conversations``: a built-in set of questions about stories of `harbour`, each with its answer."""

from collections.abc import Iterator

from slm_data import Conversation, Corpus, Documents, Message, harbour_stories

NAME = "conversations"
TRAIN_SEED, VALIDATION_SEED = 101, 102
TRAIN_COUNT, VALIDATION_COUNT = 1000, 200
ANSWER_SENTENCES = 3
QUESTION = "How does this story go on?"


def load_conversations() -> Corpus:
    """Return the set; only answers have a loss."""
    return Corpus(NAME, _documents(TRAIN_SEED, TRAIN_COUNT), _documents(VALIDATION_SEED, VALIDATION_COUNT))


def _documents(seed: int, count: int) -> Documents:
    identity = f"slm-bench {NAME} 1 {seed} {count}"
    return Documents(NAME, identity, lambda: _conversations(seed, count), data_format="messages")


def _conversations(seed: int, count: int) -> Iterator[Conversation]:
    for story in harbour_stories(seed, count):
        first, *following = story.split(". ")
        answer = ". ".join(following[:ANSWER_SENTENCES]).strip()
        yield Conversation((Message("user", f"{QUESTION} {first}."), Message("assistant", f"{answer}.", True)))
