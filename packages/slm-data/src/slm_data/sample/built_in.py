"""The built-in corpora by dataset name."""

from slm_data.sample.dragon.corpus import DRAGON
from slm_data.sample.harbour.corpus import HARBOUR

BUILT_IN = {"sample": DRAGON, "harbour": HARBOUR}
TRAIN_SEED = 1
VALIDATION_SEED = 2

SAMPLE_TRAIN_SEED = TRAIN_SEED
sample_story = DRAGON.story
sample_stories = DRAGON.stories
harbour_story = HARBOUR.story
harbour_stories = HARBOUR.stories
