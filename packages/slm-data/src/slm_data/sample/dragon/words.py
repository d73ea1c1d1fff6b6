"""The words that vary from story to story. All are common in stories for small children."""

GIRLS = ("Lily", "Lucy", "Sue", "Mia", "Anna", "Sara", "Amy", "Jane")
BOYS = ("Tim", "Tom", "Ben", "Max", "Sam", "Jack", "Bob", "Joe")
KINDS = ("bunny", "cat", "mouse")  # friends who are animals; none of them swims or flies

PLACES = (
    ("the park", "in the park"),
    ("the garden", "in the garden"),
    ("the forest", "in the forest"),
    ("the beach", "at the beach"),
    ("the lake", "at the lake"),
    ("the farm", "on the farm"),
    ("the yard", "in the yard"),
    ("the hill", "on the hill"),
)
THINGS = ("ball", "kite", "hat", "doll", "toy", "balloon")
COLOURS = ("red", "yellow", "green", "pink", "purple")
SUNNY = ("sunny", "warm", "nice")
ANIMALS = ("dog", "bear", "fox")
