"""Draws the people, places and things of a story, as values for the slots in a plot's lines.

The hero's pronouns are {he} {him} {his} {himself}; those of the friend end in 2, of the elder in 3, of the
stranger in 4. Slots that start with `a_` include the article; slots that start with a capital start a sentence.
"""

from itertools import product

from slm_data.sample.harbour import words
from slm_data.sample.slots import (
    PRONOUNS,
    Draw,
    Slots,
    capital,
    distinct,
    named,
    pick,
    pronouns,
    single,
    with_capitals,
)


def _hero(name: str, gender: str) -> Slots:
    child, heir = ("girl", "daughter") if gender == "she" else ("boy", "son")
    return {"hero": name, "child": child, "heir": heir} | pronouns(gender, "")


def _elder(name: str, role: tuple[str, str, str], gender: str) -> Slots:
    title = role[0] if gender == "she" else role[1]
    return {"elder": f"{title} {name}", "role": role[2]} | pronouns(gender, "3")


def _thing(noun: str, material: str, use: str, rank: str) -> Slots:
    return {f"noun{rank}": noun, f"use{rank}": use} | named("thing", f"{material} {noun}", rank)


def _place(row: tuple[str, str], rank: str) -> Slots:
    return {f"at{rank}": row[0], f"At{rank}": capital(row[0]), f"to{rank}": row[1]}


def number_word(value: int) -> str:
    """Return a number from 0 to 29 in words."""
    if value <= 20:
        return words.UNITS[value]
    return f"twenty-{words.UNITS[value - 20]}"


def count_phrase(value: int, item: tuple[str, str]) -> str:
    """Return number and noun; `item` is singular and plural."""
    return f"{number_word(value)} {item[value != 1]}"


def _basket(item: tuple[str, str], first: int, second: int, left: int) -> Slots:
    """A sum in two steps: of `full` items, `first` and then `second` are given away; `rest` and `left` remain."""
    counts = {"full": first + second + left, "first": first, "rest": second + left}
    counts |= {"second": second, "left": left}
    slots = {key: count_phrase(value, item) for key, value in counts.items()}
    full = number_word(counts["full"])
    return slots | {"full_n": full, "Full_n": capital(full), "left_n": number_word(left)}


def _purse(have: int, short: int) -> Slots:
    return {"have": number_word(have), "short": number_word(short), "cost": number_word(have + short)}


def _hours(now: int, gap: int) -> Slots:
    slots = {"hour": number_word(now), "gap": number_word(gap), "hour2": number_word(now + gap)}
    return with_capitals(slots)


def _sky(sky: str, weather: str, clears: str) -> Slots:
    return {"sky": sky, "Sky": capital(sky), "weather": weather, "clears": clears}


_PEOPLE = [(name, "she") for name in words.GIRLS] + [(name, "he") for name in words.BOYS]
_HEROES = [_hero(*person) for person in _PEOPLE]
_FRIENDS = [{"friend": name} | pronouns(gender, "2") for name, gender in _PEOPLE]
_ELDERS = [_elder(*who) for who in product(words.ELDERS, words.ROLES, PRONOUNS)]
_STRANGERS = [pronouns(gender, "4") for gender in PRONOUNS]
_PLACES = [[_place(row, rank) for row in words.PLACES] for rank in ("", "2", "3")]
_THINGS = [
    [[_thing(noun, made_of, use, rank) for made_of in materials] for noun, materials, use in words.THINGS]
    for rank in ("", "2", "3")
]
_COLOURS = [[named("colour", word, rank) for word in words.COLOURS] for rank in ("", "2")]
_SHIPS = [[{f"ship{rank}": ship} for ship in words.SHIPS] for rank in ("", "2")]
_SEASONS = [
    ([{"day": day, "Day": capital(day)} for day in days], [_sky(*sky) for sky in skies])
    for days, skies in words.SEASONS
]
_PETS = [
    {"pet": name, "cried": cried} | named("kind", kind)
    for name, (kind, cried) in product(words.PET_NAMES, words.PET_KINDS)
]
_BASKETS = [_basket(*row) for row in product(words.FOODS, range(1, 5), range(1, 5), range(1, 6))]
_PURSES = [_purse(have, short) for have in range(3, 13) for short in range(2, 10)]
_HOURS = [_hours(now, gap) for now in range(1, 10) for gap in (2, 3)]
_DAYS = [{"days": number_word(value), "Days": capital(number_word(value))} for value in range(4, 15)]
_CREWS = [{"crew": number_word(value), "Crew": capital(number_word(value))} for value in range(5, 21)]

# Tables from which a story takes one row each.
_SINGLES: tuple[list[Slots], ...] = (
    _ELDERS,
    _STRANGERS,
    _PETS,
    _BASKETS,
    _PURSES,
    _HOURS,
    _DAYS,
    _CREWS,
    [{"town": town} for town in words.TOWNS],
    [{"mark": f"a {mark}", "the_mark": f"the {mark}"} for mark in words.MARKS],
    [{"pause": pause} for pause in words.PAUSES],
    [{"age": age} for age in words.AGES],
    [{"trade": trade} for trade in words.TRADES],
    [{"shop": shop} for shop in words.SHOPS],
    single("trait", words.TRAITS),
    single("garment", words.GARMENTS),
)
# Tables from which a story takes several different rows, one for each rank.
_RANKED = ([_HEROES, _FRIENDS], _PLACES, _COLOURS, _SHIPS)


def cast(draw: Draw) -> Slots:
    """Draw the slots of one story."""
    slots: Slots = {}
    for rows in _SINGLES:
        slots.update(pick(draw, rows))
    for ranks in _RANKED:
        for table, index in zip(ranks, distinct(draw, len(ranks), len(ranks[0])), strict=True):
            slots.update(table[index])
    for kinds, index in zip(_THINGS, distinct(draw, len(_THINGS), len(words.THINGS)), strict=True):
        slots.update(pick(draw, kinds[index]))
    days, skies = pick(draw, _SEASONS)
    slots.update(pick(draw, days))
    slots.update(pick(draw, skies))
    return slots
