"""The held-out validation split."""

from hypothesis import given
from hypothesis import strategies as st

from slm_data.sources.holdout import training_texts, validation_texts


@given(count=st.integers(0, 200), window=st.integers(2, 40), seed=st.integers(0, 9))
def test_each_text_is_in_one_part_in_order_and_one_of_every_window_is_held_out(
    count: int, window: int, seed: int
) -> None:
    texts = [str(number) for number in range(count)]
    validation = list(validation_texts(texts, window, seed))
    training = list(training_texts(texts, window, seed))
    assert sorted(validation + training, key=int) == texts
    assert validation == sorted(validation, key=int)
    assert training == sorted(training, key=int)
    assert count // window <= len(validation) <= -(-count // window)
    # load_corpus reduces the window to the number of texts, if they are fewer.
    assert count < window or (validation and training)


def test_the_split_depends_on_the_seed_alone() -> None:
    texts = [str(number) for number in range(100)]
    assert list(validation_texts(texts, 20, 1)) == list(validation_texts(texts, 20, 1))
    assert list(validation_texts(texts, 20, 1)) != list(validation_texts(texts, 20, 2))
