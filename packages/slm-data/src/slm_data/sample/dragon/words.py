"""The words that vary from story to story. All are common in stories for small children.

There are few names, and each is always a girl's or always a boy's: with sixteen names, some of them of animals, the
built-in base confused who is who after the demonstration's 85 steps.
"""

GIRLS = ("Lily", "Sue", "Mia", "Lucy")
BOYS = ("Tim", "Tom", "Max", "Jack")

PLACES = (
    ("the park", "in the park"),
    ("the garden", "in the garden"),
    ("the forest", "in the forest"),
    ("the beach", "at the beach"),
    ("the lake", "at the lake"),
    ("the farm", "on the farm"),
    ("the yard", "in the yard"),
)
THINGS = ("ball", "kite", "hat", "doll", "toy", "balloon")
COLOURS = ("red", "yellow", "green", "pink", "purple")
SUNNY = ("sunny", "warm", "nice")
ANIMALS = ("dog", "bear", "fox")
