"""Consistency of the stories of the corpus `harbour`, plot by plot."""

import re

from slm_data.sample.harbour import words
from slm_data.sample.harbour.characters import number_word
from slm_data.sample.story_grammar import Tale

NUMBERS = {number_word(value): value for value in range(1, 30)}


def of_plot(tales: list[Tale], plot: str) -> list[Tale]:
    selected = [tale for tale in tales if tale.plot == plot]
    assert len(selected) > 100
    return selected


def test_the_lost_thing_is_found_again_where_it_was_left(harbour_tales: list[Tale]) -> None:
    for tale in of_plot(harbour_tales, "lost"):
        left = tale.text.index(f"stopped {tale.slots['at']} to {tale.slots['pause']}")
        match = re.search(rf"(to|At) {tale.slots['to']}\b.*\b{tale.slots['noun']}\b", tale.text)
        assert match, tale.text
        assert match.start() > left


def test_the_sums_of_the_shared_basket_are_right(harbour_tales: list[Tale]) -> None:
    for tale in of_plot(harbour_tales, "sharing"):
        full, first, rest, second, *_, left = _counted_items(tale.text)
        assert (full, rest) == (first + rest, second + left), tale.text


def _counted_items(text: str) -> list[int]:
    items = "|".join(form for pair in words.FOODS for form in pair)
    counts = re.findall(rf"\b([\w-]+) (?:{items})\b", text)
    return [NUMBERS[count.lower()] for count in counts if count.lower() in NUMBERS]


def test_the_missing_pennies_make_up_the_price(harbour_tales: list[Tale]) -> None:
    for tale in of_plot(harbour_tales, "gift"):
        cost = _number_in(r"cost ([\w-]+) pennies", tale.text)
        have = _number_in(r"(?:counted what s?he had: |there were only )([\w-]+)", tale.text)
        short = _number_in(r"([\w-]+) pennies short", tale.text)
        assert cost == have + short, tale.text


def test_the_hours_until_the_tide_are_counted_right(harbour_tales: list[Tale]) -> None:
    for tale in of_plot(harbour_tales, "tide"):
        until = _number_in(r"(?:dry until|back by) ([\w-]+),", tale.text)
        now = _number_in(r'(?:"It is|church clock struck) ([\w-]+)', tale.text)
        hours = _number_in(r"([\w-]+) hours", tale.text)
        assert until == now + hours, tale.text


def _number_in(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    assert match, text
    return NUMBERS[match[1].lower()]


def test_a_promise_lasts_as_many_weeks_as_were_promised(harbour_tales: list[Tale]) -> None:
    for tale in of_plot(harbour_tales, "promise"):
        weeks = [count.lower() for count in re.findall(r"([\w-]+) weeks", tale.text)]
        assert len(weeks) >= 2
        assert set(weeks) == {tale.slots["days"]}


def test_every_trade_gives_away_what_the_previous_one_brought(harbour_tales: list[Tale]) -> None:
    for tale in of_plot(harbour_tales, "barter"):
        places = [tale.text.index(tale.slots[key]) for key in ("a_thing", "a_thing2", "a_thing3")]
        assert places == sorted(places)
        assert all(len(re.findall(rf"\b{tale.slots[key]}\b", tale.text)) >= 2 for key in ("noun", "noun2", "noun3"))


def test_a_flag_is_flown_in_the_colour_of_its_meaning(harbour_tales: list[Tale]) -> None:
    for tale in of_plot(harbour_tales, "signal"):
        danger, well = tale.slots["colour"], tale.slots["colour2"]
        assert re.search(rf"{danger}\b.* danger.*{well}\b.* all (is|was) well", tale.text, re.IGNORECASE)
        if "ran up" in tale.text:
            assert f"ran up the {well} flag" in tale.text
        if "hoisted the" in tale.text:
            assert f"hoisted the {danger} flag" in tale.text
