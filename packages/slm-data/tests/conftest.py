"""A small tokenizer, a corpus in memory, and the stories of the corpus `harbour`."""

from collections.abc import Callable, Iterable, Iterator

import pytest
from transformers import PreTrainedTokenizerBase

from slm_data.sample.built_in import TRAIN_SEED
from slm_data.sample.harbour.corpus import HARBOUR
from slm_data.sample.story_grammar import Tale
from slm_data.sources.documents import Documents
from slm_data.tokens.bpe import train_tokenizer

SENTENCES = (
    "Once upon a time there was a little hen who lived by the sea.",
    "The hen had a red boat, and every day she went out to look for the moon.",
    "“Who took my boat?” said the hen. “I did,” said the moon, “and I am sorry.”",
    "Ein kleines Huhn fährt über das Meer; l'été, la mer est à côté.",
    "They were friends from that day on, and the boat was theirs.",
)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(SENTENCES, 320, 128)


@pytest.fixture(scope="session")
def sentences() -> tuple[str, ...]:
    return SENTENCES


@pytest.fixture(scope="session")
def in_memory() -> Callable[..., Documents]:
    def documents(texts: Iterable[str], identity: str = "test") -> Documents:
        stored = list(texts)

        def read() -> Iterator[str]:
            return iter(stored)

        return Documents("texts", identity, read)

    return documents


@pytest.fixture(scope="session")
def harbour_tales() -> list[Tale]:
    return [HARBOUR.tell(TRAIN_SEED, index) for index in range(HARBOUR.train_stories)]
