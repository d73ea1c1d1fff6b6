"""``conversations``: a built-in set of questions about stories of `harbour`, each with its answer."""

from collections.abc import Iterator

from slm_data import Conversation, Corpus, Documents, Message, harbour_stories

NAME = "conversations"
TRAIN_SEED, VALIDATION_SEED = 101, 102
CONVERSATIONS = 1000
ANSWER_SENTENCES = 3
QUESTION = "How does this story go on?"


def load_conversations() -> Corpus:
    """Return the set; only answers have a loss."""
    return Corpus(NAME, _documents(TRAIN_SEED), _documents(VALIDATION_SEED))


def _documents(seed: int) -> Documents:
    identity = f"slm-bench {NAME} 1 {seed}"
    return Documents(NAME, identity, lambda: _conversations(seed), data_format="messages")


def _conversations(seed: int) -> Iterator[Conversation]:
    for story in harbour_stories(seed, CONVERSATIONS):
        first, *following = story.split(". ")
        answer = ". ".join(following[:ANSWER_SENTENCES]).strip()
        yield Conversation((Message("user", f"{QUESTION} {first}."), Message("assistant", f"{answer}.", True)))
