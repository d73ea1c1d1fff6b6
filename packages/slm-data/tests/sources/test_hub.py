"""Hub datasets, read by the real client in its own process from a small hub on this machine."""

from collections.abc import Iterator

import pytest

from slm_testing.data.small_hub import ALTERNATIVES, BROKEN_LINES, LINES, REVISION, STORIES, Client, Hub


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


def test_limits_take_the_first_documents(client: Client) -> None:
    whole = client.load(dataset="fine/stories")
    capped = client.load(dataset="fine/stories", max_train_samples=3, max_eval_samples=2)
    assert (capped["train"], capped["validation"]) == (STORIES[:3], ["Held back.", "Kept back."])
    assert capped["identity"] != whole["identity"]


def test_wikitext_is_read_as_articles_and_every_byte_is_kept(client: Client) -> None:
    corpus = client.load(dataset="wikitext2")
    # The blank line before a heading belongs to the article before it.
    assert corpus["train"] == ["".join([*LINES[1:], " \n"]), "".join(BROKEN_LINES[1:])]
    assert corpus["validation"] == ["".join(LINES[1:])]


def test_rows_of_a_split_are_read_as_they_are_and_a_missing_split_is_refused(client: Client) -> None:
    assert client.load(name="wikitext2", split="test") == ["", *BROKEN_LINES]
    error = client.load(name="wikitext2", split="tset")["error"]
    assert error == "the dataset wikitext2 has no split 'tset', only train, validation, test; choose another"


def test_a_test_split_is_never_used_for_validation(client: Client) -> None:
    corpus = client.load(dataset="fine/tested")
    assert sorted(corpus["train"] + corpus["validation"]) == sorted(STORIES)
    assert "no validation split" in corpus["notes"][0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"dataset": "fine/judged"}, ["no split 'train'", "test"]),
        ({"dataset": "fine/columns"}, ["no column 'text'", "story, stars", "--text_column"]),
        ({"dataset": "fine/columns", "text_column": "stars"}, ["'stars'", "int64", "story"]),
        ({"dataset": "Salesforce/wikitext"}, ["several configurations", "wikitext-2-raw-v1, other"]),
        ({"dataset": "Salesforce/wikitext:nope"}, ["'nope'", "wikitext-2-raw-v1, other"]),
    ],
)
def test_a_missing_part_is_reported_with_what_is_available(
    client: Client, options: dict[str, str], expected: list[str]
) -> None:
    error = client.error(**options)
    assert options["dataset"].partition(":")[0] in error
    assert all(words in error for words in expected), error


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nobody/nothing", "no repository of that name"),
        ("gated/stories", "gated"),
        ("sick/stories", "503"),
        ("cut/stories", "was interrupted"),
    ],
)
def test_a_hub_error_is_one_sentence_with_the_alternatives(client: Client, name: str, reason: str) -> None:
    error = client.error(dataset=name)
    assert all(words in error for words in (name, reason, *ALTERNATIVES)), error
    assert "\n" not in error


def test_without_the_hub_a_cached_copy_is_used(client: Client, hub: Hub) -> None:
    online = client.load(dataset="fine/cached")
    with hub.unreachable():
        error = client.error(dataset="fine/absent")
        offline = client.load(dataset="fine/cached")
    assert all(words in error for words in ("cannot be reached", "fine/absent", *ALTERNATIVES)), error
    assert "cannot be reached; the cached copy is used" in offline["notes"][0]
    assert {**offline, "notes": []} == online


def test_offline_mode_reads_the_cache_and_reports_what_is_missing(client: Client) -> None:
    online = client.load(dataset="fine/cached")
    cached = client.load(dataset="fine/cached", offline=True)
    assert {**cached, "notes": []} == online
    assert "HF_HUB_OFFLINE" in cached["notes"][0]
    error = client.error(dataset="fine/absent", offline=True)
    assert "HF_HUB_OFFLINE" in error
    assert "the cache contains no copy" in error
