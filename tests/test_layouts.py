"""Folders that are called like splits and folds: they are such ones, or an error says what was seen."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

import preprocessing.scan
from arg import PreprocessConfig, parse_preprocess
from preprocessing.layouts import fold_of, split_of
from system.errors import UserError
from tests.preparing import fill, prepare, scan, touch, write

CLASSES = "no/a.wav yes/b.wav"


@pytest.mark.parametrize(
    ("names", "split"),
    [
        ("train Train TRAINING training_set audio_train train-audio TrainSet trainset Train_Data trn", "train"),
        ("val valid Validation dev development val_set devset", "validation"),
        ("test Test testing audio_test test-wavs eval evaluation TestData 'Test Set'", "test"),
        ("'training day' trainer contest testament value device 1 fold1 train1 no train_horn audio", None),
    ],
)
def test_the_split_that_a_name_stands_for(names: str, split: str | None) -> None:
    assert {split_of(name) for name in shlex.split(names)} == {split}


@pytest.mark.parametrize(
    ("name", "fold"),
    [("fold1", "1"), ("Fold 1", "1"), ("fold_01", "1"), ("FOLD-10", "10"), ("foldA", "a"), ("audio_fold3", "3")]
    + [(name, "") for name in ("fold", "folder1", "unfold1", "fold1b2", "manifold 1", "1")],
)
def test_the_fold_that_a_name_stands_for(name: str, fold: str) -> None:
    assert fold_of(name) == fold


def layout(root: Path, *folders: str) -> Path:
    """Two classes in each of `folders`, or two clips without a class where it ends with -."""
    for number, folder in enumerate(folders):
        names = "c.wav d.wav" if folder.endswith("-") else CLASSES
        touch(root / folder.rstrip("-"), names.replace(".wav", f"{number}.wav"))
    return root


def splits(root: Path) -> dict[str, set[str]]:
    """The names in each split."""
    found: dict[str, set[str]] = {}
    for split, name, *_, reason in scan(root)[0]:
        found.setdefault("rejected" if reason else split, set()).add(name)
    return found


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [
        ("Train", None, "Test-"),
        ("training", "validation", "testing"),
        ("train", "val", "test"),
        ("train", "valid", None),
        ("audio_train", None, "audio_test-"),
        ("train_audio", None, None),
        ("Train Set", "Validation Set", "Test Set"),
        ("dev", None, "eval"),
        ("TRAIN", "DEV", "TEST-"),
        ("train", "dev", "eval-"),
    ],
)
def test_split_folders(tmp_path: Path, train: str, valid: str | None, test: str | None) -> None:
    root = layout(tmp_path, *filter(None, (train, valid, test)))
    trained = {f"{train}/no/a0.wav", f"{train}/yes/b0.wav"}
    trained |= {f"{valid}/no/a1.wav", f"{valid}/yes/b1.wav"} if valid else set()
    number = 2 if valid else 1
    tested = (
        {f"c{number}.wav", f"d{number}.wav"}
        if test and test[-1] == "-"
        else {f"no/a{number}.wav", f"yes/b{number}.wav"}
    )
    found = splits(root)
    assert found["train"] == trained
    assert found.get("test", set()) == (tested if test else set())
    notes = scan(root)[1]
    assert (f"{valid}/: its clips stay in training" in notes) == bool(valid)
    if train != "train":
        assert f"folder of the clips to train on: {train}" in notes


def test_folders_that_hold_neither_classes_nor_splits_beside_splits(tmp_path: Path) -> None:
    root = layout(tmp_path, "train_audio", "train_soundscapes-", "test_soundscapes-")
    touch(root, "__MACOSX/no/x.wav .ipynb_checkpoints/x.wav train_audio/no/._x.wav docs/a.txt")
    assert splits(root) == {"train": {"train_audio/no/a0.wav", "train_audio/yes/b0.wav"}}
    assert "not used, as there is a train_audio/ beside: 3 folders (docs, test_soundscapes, train_sou" in scan(root)[1]


@pytest.mark.parametrize("names", ["train car bus", "test car bus", "Train Car Bus", "train test1 car", "dev ops test"])
def test_classes_called_like_splits_beside_others(tmp_path: Path, names: str) -> None:
    for name in names.split():
        touch(tmp_path / name, "a.wav b.wav")
    files, notes = scan(tmp_path)
    assert {file[2] for file in files} == set(names.split())
    for name in names.split():
        assert (f"{name}/ counts as a class" in notes) == (name.lower() in ("train", "test"))


@pytest.mark.parametrize("names", ["fold1 fold2 fold10", "Fold 1,Fold 2,Fold 10", "fold_01 fold_02 fold_10"])
@pytest.mark.parametrize("top", ["", "train", "audio_train"])
def test_fold_folders_are_folds(tmp_path: Path, names: str, top: str) -> None:
    folders = names.split("," if "," in names else None)
    for number, folder in enumerate(folders):
        fill(tmp_path / "data" / top / folder, clips=2, seed=number)
    if top:
        write(tmp_path / "data" / "test" / "x.wav", 999)
    train = prepare(tmp_path / "data", tmp_path / "work")
    train = train[train["split"] == "train"]
    assert set(train["label"]) == {"no", "yes"}
    prefix = f"{top}/" if top else ""
    assert dict(zip(train["fname"].str.removeprefix(prefix).str.split("/").str[0], train["fold"], strict=True)) == {
        folders[0]: 0, folders[1]: 1, folders[2]: 2}  # fmt: skip


def test_folds_without_class_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(3):
        touch(tmp_path, f"fold{n}/dog_{n}.wav fold{n}/cat_{n}.wav")
    with pytest.raises(
        UserError, match=r"3 folds \(fold0, fold1, fold2\) without class folders inside; name the labels"
    ):
        scan(tmp_path)
    files = preprocessing.scan.scan(PreprocessConfig(tmp_path, label_pattern="(?P<label>[a-z]+)_")).files
    assert {(file.label, file.fold) for file in files} == {(label, fold) for label in ("dog", "cat") for fold in "012"}


@pytest.mark.parametrize(
    ("folders", "seen"),
    [
        ("train_curated- train_noisy- test-", "3 folders (test, train_curated, train_noisy)"),
        ("train-clean-100 dev-clean test-clean", "3 folders (dev-clean, test-clean, train-clean-100)"),
        ("train-clean test", "2 folders (test, train-clean)"),
        ("validation-", "1 folder (validation)"),
        ("fold1-", "1 folder (fold1)"),
        ("fold1 test_x", "2 folders (fold1, test_x)"),
        ("train1 train2", "2 folders (train1, train2)"),
        ("part_1 part_2 part_3", "3 folders (part_1, part_2, part_3)"),
        ("Set 1,set 2", "2 folders (Set 1, set 2)"),
        ("split1- split2-", "2 folders (split1, split2)"),
    ],
)
def test_splits_and_folds_that_are_not_understood_are_no_classes(tmp_path: Path, folders: str, seen: str) -> None:
    names = folders.split("," if "," in folders else None)
    root = layout(tmp_path, *names)
    with pytest.raises(UserError) as error:
        scan(root)
    assert f"called like splits or folds, not like classes: {seen}" in str(error.value)
    if len(names) > 1:  # as the error says
        files, _ = scan(root, label_pattern="^(?P<label>[^/]+)/")
        assert {file[2] for file in files} == {name.rstrip("-") for name in names}
        nested = "^[^/]+/(?P<label>[^/]+)/"
        assert (nested in str(error.value)) == any(name[-1] != "-" for name in names)
        if all(name[-1] != "-" for name in names):
            assert {file[2] for file in scan(root, label_pattern=nested)[0]} == {"no", "yes"}


def test_one_folder_around_the_data_set(tmp_path: Path) -> None:
    for number, inside in enumerate(("train,test", "fold1,fold2", ".", "x/train,x/test")):
        root = layout(tmp_path / str(number), *(f"data/{name}" for name in inside.split(",")))
        touch(root, "docs/a.txt")
        with pytest.raises(
            UserError, match=rf"a folder below has classes: python preprocess.py -i {root}/data"
        ) as error:
            scan(root)
        command = str(error.value).rpartition("python preprocess.py ")[2]
        assert len(preprocessing.scan.scan(parse_preprocess(shlex.split(command))).files) >= 2


def test_folders_that_recur_in_all_folders_are_asked_about(tmp_path: Path) -> None:
    layout(tmp_path / "one", "ann", "bob")
    assert (
        "in each class folder there are 2 folders (no, yes): if those are the classes, --label-pattern '^[^/]+/("
        in (scan(tmp_path / "one")[1])
    )
    layout(tmp_path / "two", "ann")
    touch(tmp_path / "two", "bob/no/a.wav")
    assert "in each class folder" not in scan(tmp_path / "two")[1]


@pytest.mark.parametrize("inside", ["audio", "wav", "clips", "wav files"])
def test_a_folder_in_train_that_only_says_that_it_is_audio(tmp_path: Path, inside: str) -> None:
    assert splits(layout(tmp_path, f"train/{inside}")) == {
        "train": {f"train/{inside}/no/a0.wav", f"train/{inside}/yes/b0.wav"}
    }


def test_splits_inside_classes_are_said(tmp_path: Path) -> None:
    root = touch(tmp_path, "no/train/a.wav no/test/b.wav yes/train/c.wav yes/test/d.wav")
    assert "in the class folders there are 2 folders (test, train), which are not used as splits" in scan(root)[1]


@pytest.mark.parametrize(
    ("table", "audio"),
    [
        ("meta/esc50.csv", "audio"),
        ("train.csv", "audio_train"),
        ("metadata.csv", "."),
        ("metadata/UrbanSound8K.csv", "audio/fold1"),
        ("train.jsonl", "wavs"),
        ("train_curated.csv", "train_curated"),
    ],
)
def test_a_manifest_that_lies_there_is_proposed(tmp_path: Path, table: str, audio: str) -> None:
    root = touch(tmp_path / audio, "a.wav b.wav") and tmp_path
    touch(root, "sample_submission.csv other/notes.csv")
    (root / "sample_submission.csv").write_text("fname,label\na.wav,x\nb.wav,x\n")
    path = root / table
    path.parent.mkdir(exist_ok=True)
    json = '{"audio_filepath": "wavs/a.wav", "command": "x"}\n{"audio_filepath": "wavs/b.wav", "command": "y"}'
    path.write_text(json if table.endswith("jsonl") else "filename,class\na.wav,x\nb.wav,y\n")
    with pytest.raises(
        UserError, match=rf"; {table} names 2 clips and their labels: python preprocess.py -i "
    ) as error:
        scan(root)
    command = str(error.value).rpartition("python preprocess.py ")[2]
    files = preprocessing.scan.scan(parse_preprocess(shlex.split(command))).files
    assert [(file.label, file.reason) for file in files if file.split == "train"] == [("x", ""), ("y", "")]


def test_a_table_whose_columns_are_not_clear_is_proposed_with_the_question(tmp_path: Path) -> None:
    root = touch(tmp_path, "audio/a.wav audio/b.wav")
    (root / "labels.csv").write_text("ident,what\na.wav,x\nb.wav,y\n")
    with pytest.raises(
        UserError, match=r"the only class is 'audio'.*labels.csv: which column is the path and .*path=ident label=what"
    ):
        scan(root)
