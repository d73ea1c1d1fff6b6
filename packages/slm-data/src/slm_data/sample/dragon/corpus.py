"""The corpus `sample`: short stories about Zip, a little blue dragon who blows bubbles, generated from a seed.

Base model and corpus make a demonstration: the built-in base writes the same simple English, but knows no Zip.
"""

from slm_data.sample.dragon.characters import cast
from slm_data.sample.story_grammar import StoryGrammar

DRAGON = StoryGrammar(
    version="3",
    package="slm_data.sample.dragon",
    plot_names=(
        "stuck",
        "lost",
        "mud",
        "dark",
        "alone",
        "river",
        "hurt",
        "bird",
        "fly",
        "share",
        "hide",
        "angry",
        "wind",
        "sleep",
        "rain",
        "fire",
    ),
    cast=cast,
    features=("",),
    max_words=150,
    train_stories=3000,
    validation_stories=400,
)
