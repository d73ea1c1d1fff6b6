"""Invariants of the corpus `sample`: determinism, variety, form, and the hero in every story."""

import hashlib
import re
from collections import Counter
from itertools import islice

import pytest

from slm_data.sample.built_in import TRAIN_SEED, VALIDATION_SEED, sample_stories, sample_story
from slm_data.sample.dragon import words
from slm_data.sample.dragon.characters import cast
from slm_data.sample.dragon.corpus import DRAGON
from slm_data.sample.story_grammar import Tale

# A change of any story needs a new version, and its hash here.
GOLDEN = ("3", "2edcdc522e9c48ede0718cafc164fe6ec988c5487155b5316d6f7a2f711996ab")
STORIES = DRAGON.train_stories
NAMES = (*words.GIRLS, *words.BOYS)


@pytest.fixture(scope="module")
def tales() -> list[Tale]:
    return [DRAGON.tell(TRAIN_SEED, index) for index in range(STORIES)]


@pytest.fixture(scope="module")
def texts(tales: list[Tale]) -> list[str]:
    return [tale.text for tale in tales]


def test_the_text_is_the_one_that_the_version_names() -> None:
    digest = hashlib.sha256("\n".join(sample_stories(200, TRAIN_SEED)).encode()).hexdigest()
    assert (DRAGON.version, digest) == GOLDEN, "the text changed: raise the version and write its hash here"


def test_a_story_does_not_depend_on_how_many_are_made() -> None:
    assert list(sample_stories(60, 9))[:25] == list(sample_stories(25, 9))
    assert list(sample_stories(25, 9))[24] == sample_story(9, 24)


def test_the_stories_have_no_end() -> None:
    assert len(set(islice(sample_stories(10**12, 5), 50))) == 50


def test_no_two_stories_are_equal_and_none_is_in_both_splits(texts: list[str]) -> None:
    validation = list(sample_stories(DRAGON.validation_stories, VALIDATION_SEED))
    assert len({*texts, *validation}) == STORIES + DRAGON.validation_stories


# The hero


def test_every_story_introduces_the_hero_with_his_trait(texts: list[str]) -> None:
    for text in texts:
        beginning = " ".join(text.split()[:45])
        assert "Zip" in beginning, text
        assert "blue dragon" in beginning, text
        assert "bubbles" in beginning, text


def test_every_story_ends_with_what_the_hero_says(texts: list[str]) -> None:
    assert all("Zip, zip, hooray!" in text.splitlines()[-1] for text in texts)
    assert {text.count("Zip, zip, hooray!") for text in texts} == {1}


def test_most_stories_do_not_start_with_the_hero(texts: list[str]) -> None:
    hidden = sum("Zip" not in text.split(".")[0].split()[:6] for text in texts)
    assert hidden > 0.8 * STORIES


@pytest.mark.parametrize("start", ["Once upon a time", "One day", "It was a", "There was"])
def test_stories_have_the_usual_starts_of_the_genre(start: str, texts: list[str]) -> None:
    assert sum(text.startswith(start) for text in texts) > 0.02 * STORIES


# Variety


def test_every_plot_is_told_about_equally_often(tales: list[Tale]) -> None:
    counts = Counter(tale.plot for tale in tales)
    assert set(counts) == set(DRAGON.plot_names)
    assert min(counts.values()) > 0.7 * STORIES / len(DRAGON.plot_names)


def test_every_friend_place_and_thing_occurs(texts: list[str]) -> None:
    together = "\n".join(texts)
    for word in (*NAMES, *words.THINGS, *words.ANIMALS, *(at for _, at in words.PLACES)):
        assert len(re.findall(rf"\b{word}\b", together)) > 40, word


# Form


def test_stories_have_60_to_150_words(texts: list[str]) -> None:
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) >= 60
    assert max(lengths) <= 150


@pytest.mark.parametrize(
    "wrong",
    [
        r"  |^\s|\s$|[^\S \n]|\n\n| \n|\n ",  # spaces
        r"[{}\[\]<>|/]",  # left-over markup of the grammar
        r"\s[,.!?;:]|[,.;:][,.;:]|[!?][,.]",  # punctuation
        r"[.!?] [a-z]",  # a sentence without a capital
        r"\b(?!up\b|pop\b)(\w+),? \1\b(?<!looked and looked)",  # a word twice
        r"\b([Aa] [aeiou]|[Aa]n [^aeiou\W])",  # article
        r"\b(zip|lily|tim)\b(?!, hooray)",  # names without a capital
        r"(?<![.!?\"\n] )(?<![\"\n])(?<!^)\b(One|Soon|Then|They|He|She|His|Her)\b",  # capitals within a sentence
    ],
)
def test_no_story_has_an_error_of_form(wrong: str, texts: list[str]) -> None:
    pattern = re.compile(wrong)
    assert [text for text in texts if pattern.search(text)] == []


def test_every_paragraph_begins_and_ends_as_it_should(texts: list[str]) -> None:
    for paragraph in (paragraph for text in texts for paragraph in text.splitlines()):
        assert re.match(r'["A-Z]', paragraph), paragraph
        assert re.search(r'[.!?]"?$', paragraph), paragraph
        assert paragraph.count('"') % 2 == 0, paragraph


# People


def test_the_friend_has_one_gender(tales: list[Tale]) -> None:
    for tale in tales:
        if tale.slots["he2"] == "he":
            assert not re.search(r"\b(she|her)\b(?! mom\b)", tale.text, re.IGNORECASE), tale.text
    assert {tale.slots["he2"] for tale in tales} == {"he", "she"}


def test_pronouns_of_the_friend_are_slots() -> None:
    for plot in DRAGON.plots:
        for beat in (beat for version in plot.versions for beat in version):
            for piece in (piece for line in beat.lines for choice in line for piece in choice):
                assert not re.search(r"\b(she|her)\b", piece, re.IGNORECASE), (plot.name, piece)


def test_names_are_those_of_the_friend_and_one_other(tales: list[Tale]) -> None:
    for tale in tales:
        named = set(re.findall(rf"\b(?:{'|'.join(NAMES)})\b", tale.text))
        assert named <= {tale.slots["friend"], tale.slots["other"]}, tale.text
        assert tale.slots["friend"] in named
        assert tale.slots["friend"] != tale.slots["other"]


def test_every_slot_that_a_plot_names_is_cast() -> None:
    known = set(cast(lambda: 0.0))
    for plot in DRAGON.plots:
        for beat in (beat for version in plot.versions for beat in version):
            for piece in (piece for line in beat.lines for choice in line for piece in choice):
                assert set(re.findall(r"\{(\w+)\}", piece)) <= known, (plot.name, piece)
