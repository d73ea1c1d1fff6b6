"""Folders written by the datasets library."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from slm_data.errors import DataError
from slm_data.sources.corpus import load_corpus
from slm_data.sources.documents import Corpus
from slm_data.sources.options import SourceOptions

TEXTS = [f"Text {number}." for number in range(40)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from datasets import Dataset, DatasetDict

    folder = tmp_path_factory.mktemp("saved")
    dataset = Dataset.from_dict({"text": TEXTS, "id": list(range(40))})
    dataset.save_to_disk(folder / "one", num_shards=3)
    # Saving applies a shuffle, which is only an index until then.
    dataset.shuffle(seed=1).save_to_disk(folder / "shuffled")
    splits = {"train": dataset, "validation": dataset.select(range(5)).map(lambda row: {"text": row["text"] + "!"})}
    DatasetDict(splits).save_to_disk(folder / "both")
    DatasetDict(train=dataset, test=dataset).save_to_disk(folder / "tested")
    DatasetDict(test=dataset).save_to_disk(folder / "judged")
    return folder


def load(*folders: Path, **options: Any) -> Corpus:
    return load_corpus(SourceOptions(train_file=[str(folder) for folder in folders], **options))


def in_order(corpus: Corpus) -> list[str]:
    return sorted([*corpus.train, *corpus.validation], key=lambda text: int(text[5:].rstrip(".!")))


def test_a_saved_dataset_is_read_in_the_order_of_its_rows(saved: Path) -> None:
    corpus = load(saved / "one")
    assert in_order(corpus) == TEXTS
    assert list(corpus.train) == [text for text in TEXTS if text in set(corpus.train)]
    assert not any("file" in note for note in corpus.notes)
    shuffled = load(saved / "shuffled")
    assert in_order(shuffled) == TEXTS
    assert list(shuffled.train) != list(corpus.train)


def test_a_saved_dataset_is_found_below_a_folder(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(saved / "one")
    (tmp_path / "more.txt").write_text("Text 40.")
    assert in_order(load(saved / "one", tmp_path)) == [*TEXTS, "Text 40."]


def test_the_validation_split_of_saved_splits_is_used(saved: Path) -> None:
    corpus = load(saved / "both")
    assert list(corpus.train) == TEXTS
    assert list(corpus.validation) == [text + "!" for text in TEXTS[:5]]
    own = load(saved / "one", validation_file=[str(saved / "both")])
    assert list(own.validation) == list(corpus.validation)


def test_a_test_split_is_used_only_if_it_is_named(saved: Path) -> None:
    assert in_order(load(saved / "tested")) == TEXTS
    with pytest.raises(DataError, match="has no split 'train', only test"):
        load(saved / "judged")
    with pytest.raises(DataError, match="has no split 'validation', only train, test"):
        load(saved / "one", validation_file=[str(saved / "tested")])
    assert in_order(load(saved / "judged" / "test")) == TEXTS


def test_a_missing_part_of_a_saved_dataset_is_reported(saved: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(saved / "one", broken)
    next(broken.glob("*00001-of*.arrow")).unlink()
    with pytest.raises(DataError, match=r"there is no file .*00001-of-00003\.arrow"):
        load(broken)
    (broken / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"state\.json is broken .*save the dataset again"):
        load(broken)
