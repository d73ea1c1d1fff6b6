"""Invariants of the corpus `harbour`: determinism, variety, form and people."""

import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest

from slm_data.sample.built_in import TRAIN_SEED, VALIDATION_SEED, harbour_stories, harbour_story
from slm_data.sample.grammar import Beat
from slm_data.sample.harbour.characters import cast
from slm_data.sample.harbour.corpus import HARBOUR
from slm_data.sample.slots import Slots, pronouns, with_article
from slm_data.sample.story_grammar import Tale

# A change of any story needs a new version, and its hash here.
GOLDEN = ("1", "3aaa7aa96f8a58eec7403552bc9af0f755bb7aa805a1d0bdd3b31d187414dda0")

MALE = re.compile(r"\b(he|him|his|himself)\b", re.IGNORECASE)
FEMALE = re.compile(r"\b(she|her|hers|herself)\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def texts(harbour_tales: list[Tale]) -> list[str]:
    return [tale.text for tale in harbour_tales]


def every_beat() -> Iterator[tuple[str, Beat]]:
    for plot in HARBOUR.plots:
        for version in plot.versions:
            for beat in version:
                yield plot.name, beat


def every_piece() -> Iterator[tuple[str, str]]:
    """Each piece of text, choices included, that can be part of a story."""
    for name, beat in every_beat():
        for line in beat.lines:
            for choice in line:
                for piece in choice:
                    yield f"{name}, {beat.name}", piece


def unfilled_texts(count: int) -> Iterator[tuple[str, str]]:
    """Texts of every plot with their slots not yet filled in."""
    draw = Random(5).random
    for plot in HARBOUR.plots:
        for index in range(count):
            yield plot.name, plot.tell(draw, HARBOUR.features[index % len(HARBOUR.features)])


def slots_of_one_gender(gender: str) -> Slots:
    slots = dict(HARBOUR.tell(0, 0).slots)
    for rank in ("", "2", "3", "4"):
        slots |= pronouns(gender, rank)
    return slots


# Determinism


def test_a_story_does_not_depend_on_how_many_are_made() -> None:
    assert list(harbour_stories(60, 9))[:25] == list(harbour_stories(25, 9))
    assert list(harbour_stories(25, 9))[24] == harbour_story(9, 24)


def test_seeds_and_indices_give_different_stories() -> None:
    assert len({harbour_story(seed, index) for seed in range(20) for index in range(20)}) == 400
    assert harbour_story(0, 1 << 63) != harbour_story(1 << 63, 0)


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (0, -1), (0, 1 << 64)])
def test_a_seed_or_index_out_of_range_is_refused(seed: int, index: int) -> None:
    with pytest.raises(ValueError, match="seed and an index"):
        harbour_story(seed, index)


def test_the_text_is_the_one_that_the_corpus_version_names() -> None:
    digest = hashlib.sha256("\n".join(harbour_stories(100, TRAIN_SEED)).encode()).hexdigest()
    assert (HARBOUR.version, digest) == GOLDEN, "the text changed: raise the version and write its hash here"


def test_train_and_validation_share_no_story(texts: list[str]) -> None:
    validation = set(harbour_stories(HARBOUR.validation_stories, VALIDATION_SEED))
    assert len(validation) == HARBOUR.validation_stories
    assert validation.isdisjoint(texts)


def test_no_two_stories_are_equal(texts: list[str]) -> None:
    assert len(set(texts)) == HARBOUR.train_stories


# Variety


def test_every_plot_is_told_about_equally_often(harbour_tales: list[Tale]) -> None:
    counts = Counter(tale.plot for tale in harbour_tales)
    assert set(counts) == set(HARBOUR.plot_names)
    assert min(counts.values()) > 0.7 * HARBOUR.train_stories / len(HARBOUR.plot_names)


def test_stories_repeat_themselves_little_enough(texts: list[str]) -> None:
    sample = "\n".join(texts[:1000]).encode()
    assert len(zlib.compress(sample, 9)) / len(sample) > 0.22
    fives = [five for text in texts[:1000] for five in _five_grams(text)]
    assert len(set(fives)) / len(fives) > 0.4


def test_validation_stories_are_not_training_stories_with_other_names(texts: list[str]) -> None:
    seen = {five for text in texts for five in _five_grams(text)}
    fives = [five for text in harbour_stories(100, VALIDATION_SEED) for five in _five_grams(text)]
    assert sum(five in seen for five in fives) / len(fives) < 0.88


def _five_grams(text: str) -> list[tuple[str, ...]]:
    split = text.split()
    return [tuple(split[at : at + 5]) for at in range(len(split) - 4)]


# Form


def test_stories_have_60_to_200_words(texts: list[str]) -> None:
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) >= 60
    assert max(lengths) <= 200


def test_articles_fit_the_word_after_them(texts: list[str]) -> None:
    wrong = re.compile(r"\b(a (?!one\b|uni|use)[aeiou]\w*|an (?!hour|honest)[^aeiou\W]\w*)", re.IGNORECASE)
    assert [match[0] for text in texts if (match := wrong.search(text))] == []


@pytest.mark.parametrize(
    "wrong",
    [
        r"  |^\s|\s$|[\n\t]",  # spaces
        r"[{}\[\]<>|]",  # left-over markup of the grammar
        r"\s[,.!?;:]|[,.;:][,.;:]|[!?][,.]",  # punctuation
        r"[.!?] [a-z]",  # a sentence without a capital
        r"\b(\w+) \1\b",  # a word twice
        r"\bone (apples|pears|plums|herrings|buns|eggs|figs)\b",
        r"\b(two|three|four) (apple|pear|plum|herring|bun|egg|fig)\b",
    ],
)
def test_no_story_has_an_error_of_form(wrong: str, texts: list[str]) -> None:
    pattern = re.compile(wrong)
    assert [text for text in texts if pattern.search(text)] == []


def test_every_story_begins_with_a_capital_and_ends_with_a_full_stop(texts: list[str]) -> None:
    assert all(text[0].isupper() and text.endswith(".") for text in texts)


def test_every_quotation_is_closed(texts: list[str]) -> None:
    assert all(text.count('"') % 2 == 0 for text in texts)


def test_every_story_ends_with_what_was_learned(texts: list[str]) -> None:
    assert all(" that " in text.rsplit(". ", 1)[-1] for text in texts)


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [("amber coat", "an amber coat"), ("red coat", "a red coat"), ("one-legged gull", "a one-legged gull")],
)
def test_the_article_matches_the_sound(phrase: str, expected: str) -> None:
    assert with_article(phrase) == expected


# People


@pytest.mark.parametrize(("gender", "other"), [("she", MALE), ("he", FEMALE)])
def test_nobody_is_called_both_he_and_she(gender: str, other: re.Pattern[str], harbour_tales: list[Tale]) -> None:
    alike = [tale for tale in harbour_tales if all(tale.slots[f"he{rank}"] == gender for rank in ("", "2", "3", "4"))]
    assert len(alike) > 100
    assert [tale.text for tale in alike if other.search(tale.text)] == []


@pytest.mark.parametrize(("gender", "other"), [("she", MALE), ("he", FEMALE)])
def test_every_pronoun_in_the_plots_is_a_slot(gender: str, other: re.Pattern[str]) -> None:
    slots = slots_of_one_gender(gender)
    assert [(where, piece) for where, piece in every_piece() if other.search(piece.format_map(slots))] == []


def test_the_gender_of_the_cast_changes_pronouns_and_nothing_else() -> None:
    women, men = slots_of_one_gender("she"), slots_of_one_gender("he")
    for _, text in unfilled_texts(20):
        pairs = zip(text.format_map(women).split(), text.format_map(men).split(), strict=True)
        assert all(MALE.search(his) and FEMALE.search(her) for her, his in pairs if her != his)


@pytest.mark.parametrize(("rank", "name"), [("", "{hero}"), ("2", "{friend}"), ("3", "{elder}")])
def test_nobody_is_a_pronoun_before_being_named(rank: str, name: str) -> None:
    pronoun = re.compile(rf"\{{(he|him|his|himself){rank}\}}", re.IGNORECASE)
    for plot, text in unfilled_texts(200):
        if match := pronoun.search(text):
            assert name in text[: match.start()] + text[match.start() :].split(".")[0], (plot, text)


def test_the_elder_is_introduced_when_first_named_and_only_then() -> None:
    for plot, text in unfilled_texts(200):
        if "{elder}" in text:
            assert re.search(r"\{elder\}, \{role\}", text), (plot, text)
            assert text.index("{elder}, {role}") == text.index("{elder}"), (plot, text)
        assert text.count("{role}") == text.count("{elder}, {role}") <= 1, (plot, text)


def test_the_friend_is_introduced_before_any_other_mention() -> None:
    introduced = re.compile(r"friend \{friend\}|little \{friend\}|\{friend\} did it|blamed \{friend\}")
    for plot, text in unfilled_texts(200):
        if "{friend}" in text:
            match = introduced.search(text)
            assert match, (plot, text)
            assert "{friend}" not in text[: match.start()], (plot, text)


def test_no_two_people_and_no_two_places_are_the_same(harbour_tales: list[Tale]) -> None:
    for groups in (
        ("hero", "friend"),
        ("at", "at2", "at3"),
        ("noun", "noun2", "noun3"),
        ("colour", "colour2"),
    ):
        assert all(len({tale.slots[key] for key in groups}) == len(groups) for tale in harbour_tales)


def test_every_slot_that_a_plot_names_is_cast() -> None:
    known = set(cast(lambda: 0.0))
    named = {(where, slot) for where, piece in every_piece() for slot in re.findall(r"\{(\w+)\}", piece)}
    assert {(where, slot) for where, slot in named if slot not in known} == set()
