"""The corpus `harbour`: short stories set in harbour towns, any number of them, generated from a seed."""

from slm_data.sample.harbour.characters import cast
from slm_data.sample.story_grammar import StoryGrammar

HARBOUR = StoryGrammar(
    version="1",
    package="slm_data.sample.harbour",
    plot_names=(
        "lost",
        "quarrel",
        "skill",
        "stranger",
        "rule",
        "gift",
        "fear",
        "sharing",
        "promise",
        "storm",
        "invention",
        "mystery",
        "race",
        "truth",
        "barter",
        "signal",
        "tide",
    ),
    cast=cast,
    features=("pet", "coat", "gull", ""),
    max_words=200,
    train_stories=4000,
    validation_stories=400,
)
