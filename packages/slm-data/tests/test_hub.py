"""Datasets of the hub through the real client, in a process of its own, against a small hub."""

from collections.abc import Iterator

import pytest

from slm_testing.data.small_hub import BROKEN_LINES, LINES, REVISION, STORIES, WAYS_OUT, Client, Hub


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def client(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(hub, tmp_path_factory.mktemp("hf"))
    yield client
    client.close()


def test_the_datasets_library_is_imported_only_for_the_hub(client: Client) -> None:
    assert client.start == {"imported": False}


def test_texts_come_in_order_without_blank_ones_and_can_be_read_again(client: Client) -> None:
    corpus = client.load(dataset="fine/stories")
    assert corpus["train"] == corpus["again"] == STORIES
    assert corpus["validation"] == ["Held back.", "Kept back."]
    assert corpus["notes"] == []
    assert REVISION in corpus["identity"]


def test_a_streamed_dataset_is_the_same_as_a_downloaded_one(client: Client) -> None:
    assert client.load(dataset="fine/stories", streaming=True) == client.load(dataset="fine/stories")


def test_the_caps_take_the_first_documents(client: Client) -> None:
    whole = client.load(dataset="fine/stories")
    capped = client.load(dataset="fine/stories", max_train_samples=3, max_eval_samples=2)
    assert (capped["train"], capped["validation"]) == (STORIES[:3], ["Held back.", "Kept back."])
    assert capped["identity"] != whole["identity"]


def test_wikitext_is_read_as_articles_and_every_byte_is_kept(client: Client) -> None:
    corpus = client.load(dataset="wikitext2")
    # The blank line before a heading belongs to the article before it.
    assert corpus["train"] == ["".join([*LINES[1:], " \n"]), "".join(BROKEN_LINES[1:])]
    assert corpus["validation"] == ["".join(LINES[1:])]


def test_a_test_split_is_never_tuned_on(client: Client) -> None:
    corpus = client.load(dataset="fine/tested")
    assert sorted(corpus["train"] + corpus["validation"]) == sorted(STORIES)
    assert "no validation split" in corpus["notes"][0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dataset": "fine/judged"}, ["no split 'train'", "test"]),
        ({"dataset": "fine/columns"}, ["no column 'text'", "story, stars", "--text_column"]),
        ({"dataset": "fine/columns", "text_column": "stars"}, ["'stars'", "int64", "story"]),
        ({"dataset": "Salesforce/wikitext"}, ["several configurations", "wikitext-2-raw-v1, other"]),
        ({"dataset": "Salesforce/wikitext:nope"}, ["'nope'", "wikitext-2-raw-v1, other"]),
    ],
)
def test_what_does_not_fit_is_told_with_what_there_is(client: Client, options: dict[str, str], said: list[str]) -> None:
    error = client.error(**options)
    assert options["dataset"].partition(":")[0] in error
    assert all(words in error for words in said), error


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nobody/nothing", "nothing of that name"),
        ("gated/stories", "gated"),
        ("sick/stories", "503"),
        ("cut/stories", "broke off"),
    ],
)
def test_trouble_with_the_hub_is_one_sentence_with_the_ways_out(client: Client, name: str, why: str) -> None:
    error = client.error(dataset=name)
    assert all(words in error for words in (name, why, *WAYS_OUT)), error
    assert "\n" not in error


def test_without_the_hub_a_copy_in_the_cache_serves(client: Client, hub: Hub) -> None:
    online = client.load(dataset="fine/cached")
    with hub.away():
        error = client.error(dataset="fine/absent")
        offline = client.load(dataset="fine/cached")
    assert all(words in error for words in ("cannot be reached", "fine/absent", *WAYS_OUT)), error
    assert "cannot be reached; the copy in the cache is used" in offline["notes"][0]
    assert {**offline, "notes": []} == online


def test_offline_mode_reads_the_cache_and_says_what_is_not_there(client: Client) -> None:
    online = client.load(dataset="fine/cached")
    cached = client.load(dataset="fine/cached", offline=True)
    assert {**cached, "notes": []} == online
    assert "HF_HUB_OFFLINE" in cached["notes"][0]
    error = client.error(dataset="fine/absent", offline=True)
    assert "HF_HUB_OFFLINE" in error
    assert "the cache holds no copy" in error
