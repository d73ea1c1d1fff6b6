"""Draws the friend, place and things of a story, as values for the slots in a plot's lines.

The hero is always Zip, so the plots name him. The friend's pronouns are {he2} {him2} {his2}. Slots that start with
`a_` include the article; slots that start with a capital start a sentence.
"""

from slm_data.sample.dragon import words
from slm_data.sample.slots import Draw, Slots, capital, distinct, pick, pronouns, single

_PEOPLE = [(name, "she", "girl") for name in words.GIRLS] + [(name, "he", "boy") for name in words.BOYS]
_TABLES = (
    [{"to": to, "at": at, "At": capital(at)} for to, at in words.PLACES],
    single("thing", words.THINGS),
    single("colour", words.COLOURS),
    [{"sunny": word} for word in words.SUNNY],
    [{"animal": word} for word in words.ANIMALS],
)


def cast(draw: Draw) -> Slots:
    """Draw the slots of one story."""
    slots: Slots = {}
    for table in _TABLES:
        slots.update(pick(draw, table))
    friend, other = distinct(draw, 2, len(_PEOPLE))
    name, gender, kind = _PEOPLE[friend]
    described = f"a little {kind} named {name}"
    slots |= {"friend": name, "kind": kind, "a_friend": described, "A_friend": capital(described)}
    return slots | {"other": _PEOPLE[other][0]} | pronouns(gender, "2")
