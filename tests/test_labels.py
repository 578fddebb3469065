"""Labels joined, renamed and dropped (--map), and class names that are not what they seem."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

import preprocessing.scan
import preprocessing.store
from arg import PreprocessConfig, parse_preprocess
from preprocess import main
from preprocessing.labels import find_lists, find_look_alikes, read_map
from system.errors import UserError
from system.options import command_line
from tests.conftest import one_error_line
from tests.preparing import fill, fold_of, reasons, touch


def labels(root: Path, *words: str) -> tuple[dict[str, str], str]:
    """The label of each clip in use, by name, and the notes, of a data set under --map `words`."""
    data = preprocessing.scan.scan(parse_preprocess(["-i", str(root), *words]))
    return {f.fname: f.label for f in data.files if not f.reason}, "\n".join(data.notes)


WORDS = "yes/a.wav yes/b.wav no/a.wav up/a.wav bed/a.wav cat/a.wav cat/b.wav"


def test_labels_are_joined_renamed_and_dropped(tmp_path: Path) -> None:
    root = touch(tmp_path, WORDS)
    found, notes = labels(root, "--map", "yes=ja", "bed=unknown", "cat=unknown", "up=")
    assert found == {
        "yes/a.wav": "ja",
        "yes/b.wav": "ja",
        "no/a.wav": "no",
        "bed/a.wav": "unknown",
        "cat/a.wav": "unknown",
        "cat/b.wav": "unknown",
    }
    assert "ja from 1 label (yes), 2 clips; unknown from 2 labels (bed, cat), 3 clips" in notes
    assert "labels dropped: 1 label (up), 1 clips" in notes


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("yes,yes\nno,no\nup,\n*,unknown\n", "utf-8"),
        ("old,new\nyes,yes\nno,no\nup,\n*,unknown\n", "utf-8-sig"),
        ("Old label;New label\nyes;yes\nno;no\nup;\n*;unknown\n", "utf-16"),
        ("nr\tfrom\tto\n1\tyes\tyes\n2\tno\tno\n3\tup\t\n4\t*\tunknown\n", "utf-8"),
        ('{"label": "yes", "target": "yes"}\n{"label": "no", "target": "no"}\n{"label": "up"}\n'
         '{"label": "*", "target": "unknown"}\n', "utf-8"),
    ],
)  # fmt: skip
def test_a_map_in_a_file(tmp_path: Path, text: str, encoding: str) -> None:
    root, path = touch(tmp_path / "data", WORDS), tmp_path / "a=b.csv"
    path.write_text(text, encoding)
    found, notes = labels(root, "--map", str(path))
    assert set(found.values()) == {"yes", "no", "unknown"}
    assert "up/a.wav" not in found
    assert "unknown from 2 labels (bed, cat), 3 clips" in notes
    found, _ = labels(root, "--map", str(path), "cat=no")  # what comes later counts
    assert [found[name] for name in ("bed/a.wav", "cat/a.wav")] == ["unknown", "no"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("yes,a,b\nno,a,c\n", "needs two columns, old label and new label, but its first row is yes, a, b"),
        ("yes,a\nno\n", "line 2: needs an old label and a new one"),
        ("yes,a\n,b\n", "line 2: needs an old label and a new one"),
        ("yes,a\nno,a\nyes,b\n", "line 3: yes has another new label above"),
    ],
)
def test_a_file_that_is_no_map(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "map.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        read_map(((str(tmp_path / "map.csv"),),))


def test_old_labels_that_no_clip_has(tmp_path: Path) -> None:
    root = touch(tmp_path, WORDS)
    assert "no clip has the label 'Cats' (did you mean 'cat'?)" in labels(root, "--map", "Cats=dog", "bed=dog")[1]
    with pytest.raises(UserError, match=r"no clip has the label 'Yes' \(did you mean 'yes'\?\); the labels are 5"):
        labels(root, "--map", "Yes=")
    with pytest.raises(UserError, match=r"map\.csv: no such file; give a file of old and new labels, or pairs"):
        labels(root, "--map", "map.csv")
    with pytest.raises(UserError, match="--map =x: use OLD=NEW"):
        labels(root, "--map", "=x")
    with pytest.raises(UserError, match="the only class after --map is 'x'"):
        labels(root, "--map", "*=x")
    with pytest.raises(UserError, match="dropped by --map"):
        labels(root, "--map", "*=")


def test_odd_labels_are_named_in_full(tmp_path: Path) -> None:
    root = touch(tmp_path, "=a/1.wav a=b/1.wav b,c/1.wav b,d/1.wav yes/1.wav")
    for word in ("cafe\u0301", "no "):  # as macOS stores it, and with a space at its end
        touch(root, "x.wav")
        (root / word).mkdir()
        (root / "x.wav").rename(root / word / "1.wav")
    found, _ = labels(root, "--map", "=a=1", "a=b=2", "*,*=3", "caf\u00e9=4", "no=5")
    assert sorted(found.values()) == ["1", "2", "3", "3", "4", "5", "yes"]


def test_labels_that_begin_with_a_hyphen(tmp_path: Path) -> None:
    root = touch(tmp_path, "-1/1.wav 0/1.wav 1/1.wav -Low/1.wav -low/1.wav")
    words = shlex.split(command_line(PreprocessConfig(root, map=(("-1", "minus"),))))[2:]
    assert labels(root, *words[2:])[0]["-1/1.wav"] == "minus"
    (option,) = options_in(labels(root)[1])
    assert len(set(labels(root, "--map", *option)[0].values())) == 4


def test_a_label_of_a_test_clip_is_mapped_but_not_the_name_of_a_folder(tmp_path: Path) -> None:
    names = "yes/a.wav no/a.wav up/a.wav"
    root = touch(tmp_path, " ".join(f"train/{name}" for name in names.split()))
    touch(root / "test", f"{names} part2/x.wav y.wav new/a.wav")
    found, _ = labels(root, "--map", "yes=yes", "up=", "new=yes", "*=unknown")
    assert {name: label for name, label in found.items() if not name.startswith("train/")} == {
        "yes/a.wav": "yes",
        "no/a.wav": "unknown",
        "part2/x.wav": "",
        "y.wav": "",
        "new/a.wav": "yes",
    }


def test_patterns_and_manifests_are_mapped_too(tmp_path: Path) -> None:
    root = touch(tmp_path, "0_a.wav 1_a.wav 2_a.wav")
    assert labels(root, "--label-pattern", "(?P<label>[0-9])_", "--map", "2=1")[0]["2_a.wav"] == "1"
    (root / "all.csv").write_text("path,label\n0_a.wav,x\n1_a.wav,y\n2_a.wav,z\n")
    assert labels(root, "--manifest", str(root / "all.csv"), "--map", "z=y")[0]["2_a.wav"] == "y"


def test_a_map_is_kept_with_the_store_and_dropping_is_no_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, work, path = fill(tmp_path / "data", "no yes ja up"), tmp_path / "work", tmp_path / "map.csv"
    path.write_text("ja,yes\nup,\n")
    command = ["-i", str(root), "-w", str(work), "--map", str(path)]
    assert main([*command, "--strict"]) == 0
    assert set(reasons(work).values()) == {"dropped by --map"}
    store = preprocessing.store.load_store(work)
    assert store["classes"] == ["no", "yes"]
    assert store["options"]["map"] == {"ja": "yes", "up": ""}
    folds = fold_of(preprocessing.store.load_clips(work))
    assert len(folds) == 18
    capsys.readouterr()
    assert main(command) == 0
    assert "nothing has changed" in capsys.readouterr().out

    path.unlink()  # what counted then counts still
    suspects = tmp_path / "suspects.csv"
    suspects.write_text("fname,label,suggested,action\nja/0.wav,yes,no,relabel\n")
    assert main(["-w", str(work), "--relabel", str(suspects)]) == 0
    clips = preprocessing.store.load_clips(work).set_index("fname")
    assert clips["label"]["ja/0.wav"] == "no"
    assert clips["fold"].to_dict() == folds
    assert main(command) == 2
    assert "map.csv: no such file" in one_error_line(capsys)

    assert main(["-i", str(root), "-w", str(work)]) == 0  # without it all is as it was
    assert preprocessing.store.load_store(work)["classes"] == ["ja", "no", "up", "yes"]
    assert "map" not in json.loads((work / "store.json").read_text())["options"]


def test_the_command_that_is_printed_maps_too() -> None:
    config = PreprocessConfig(Path("data"), map=(("map.csv",), ("a b", "c"), ("d", "")))
    assert command_line(config) == "python preprocess.py -i data --map map.csv 'a b=c' d="
    assert parse_preprocess(["-i", "data", "--map", "map.csv", "a b=c", "d="]) == config


def fill_classes(root: Path, count: dict[str, int]) -> Path:
    """A manifest with so many clips of each class."""
    names = [(f"{row}.wav", label) for row, label in enumerate(label for label, n in count.items() for _ in range(n))]
    touch(root, " ".join(name for name, _ in names))
    with (root / "all.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *names])
    return root / "all.csv"


def options_in(text: str) -> list[list[str]]:
    """The words after each --map in a message, as a shell takes them."""
    found = re.findall(r"--map (.*?) (?:drops|takes|joins|keeps)", text)
    return [shlex.split(words) for words in found]


@pytest.mark.parametrize(
    ("count", "lists"),
    [
        ({"bark": 3, "meow": 3, "bark,meow": 9}, "bark,meow"),
        ({"Bark": 3, "Meow": 3, "bark; meow": 1}, "bark; meow"),
        ({"bark": 3, "meow": 3, "bark|meow": 1, "bark|rain": 1, "wind|hail": 2}, "bark|meow bark|rain"),
        ({"bark,rain": 3, "rain,meow": 3, "bark,meow": 1}, "bark,meow bark,rain rain,meow"),
        ({"snare,drum,perc": 3, "bass,drum,perc": 3, "cymbal,perc": 1}, "bass,drum,perc cymbal,perc snare,drum,perc"),
        ({"bark": 3, "meow": 3, "bark+meow": 3}, "bark+meow"),
        ({"bark": 3, "meow": 3, "bark and meow": 3}, "bark and meow"),
        ({"bark": 3, "meow": 3, "bark_meow": 1}, "bark_meow"),
        ({"bark": 3, "meow": 3, "rain": 2, "bark meow": 3, "meow rain": 3}, "bark meow|meow rain"),
        ({"['bark', 'meow']": 1, "['bark']": 3, "['meow']": 3}, "['bark', 'meow']"),
        ({'["bark", "meow"]': 1, "rain": 3}, '["bark", "meow"]'),
        ({"hi": 2, "hi hat": 3, "air_conditioner": 3, "R&B": 2, "Gunshot, gunfire": 2, "Speech, man": 1}, ""),
        ({"rain": 2, "wind": 2, "rain, heavy": 2, "wind, heavy": 2}, ""),
        ({"(loud, near)": 3, "[x]": 3}, ""),
    ],
)
def test_classes_that_are_lists_of_classes(count: dict[str, int], lists: str) -> None:
    found = find_lists(count)
    assert sorted(found.plain) == [label for label in sorted(count) if label in lists and label in found.plain]
    assert " ".join(sorted(found.plain)) == lists or "|".join(sorted(found.plain)) == lists
    assert not found.doubtful


def test_names_of_several_words_that_are_classes_are_no_plain_lists() -> None:
    numbers = dict.fromkeys(["twenty", "thirty", "one", "two", "twenty one", "twenty two", "thirty one"], 5)
    assert list(find_lists(numbers).doubtful) == ["twenty one", "twenty two", "thirty one"]
    assert not find_lists(numbers).plain
    assert list(find_lists({"1": 9, "2": 9, "1-2": 2}).doubtful) == ["1-2"]


def test_several_labels_a_clip_are_refused_with_ways_out_that_work(tmp_path: Path) -> None:
    manifest = fill_classes(tmp_path / "a", {"bark": 3, "meow": 3, "bark,meow": 2, "it's": 1})
    words = ["--manifest", str(manifest)]
    with pytest.raises(UserError) as error:
        labels(tmp_path / "a", *words)
    text = str(error.value)
    assert "several labels a clip: 2 clips of 1 class such as 'bark,meow' (6.wav), a list of 2 labels" in text
    drop, take, _ = options_in(text)
    assert (drop, take) == (["bark,meow="], ["bark,meow=bark"])
    assert len(labels(tmp_path / "a", *words, "--map", *drop)[0]) == 7
    assert list(labels(tmp_path / "a", *words, "--map", *take)[0].values()).count("bark") == 5

    words = ["--manifest", str(fill_classes(tmp_path / "c", {"bass": 9, "guitar": 9, "bass guitar": 2}))]
    with pytest.raises(UserError, match="keeps a class that is no list") as error:
        labels(tmp_path / "c", *words)
    keep = options_in(str(error.value))[2]
    assert keep == ["bass guitar=bass guitar"]
    assert list(labels(tmp_path / "c", *words, "--map", *keep)[0].values()).count("bass guitar") == 2

    count = {"a": 9, "b": 9, **{f"a;{letter}": 1 for letter in "bcdefgh"}, "['b', 'a']": 1, "rain": 2}
    words = ["--manifest", str(fill_classes(tmp_path / "b", count)), "--map", "rain=['a', 'b']"]
    with pytest.raises(UserError, match="10 clips of 9 classes") as error:
        labels(tmp_path / "b", *words)
    drop, *_ = options_in(str(error.value))
    assert drop == ["rain=['a', 'b']", "*,*=", "*;*=", "rain="]  # also what was mapped to such a class
    assert set(labels(tmp_path / "b", *words[:2], "--map", *drop)[0].values()) == {"a", "b"}


@pytest.mark.parametrize(
    ("count", "alike"),
    [
        ({"Dog": 1, "dog": 3, " DOG ": 2, "cat": 1}, [["dog", " DOG ", "Dog"]]),
        ({"hi hat": 3, "hi_hat": 2, "HiHat": 1}, [["hi hat", "hi_hat", "HiHat"]]),
        ({"caf\u00e9": 1, "cafe\u0301": 1}, [["caf\u00e9", "cafe\u0301"]]),
        ({"\ufb01re": 1, "fire": 1, "\u200bcat": 1, "cat": 2}, [["cat", "\u200bcat"], ["fire", "\ufb01re"]]),
        ({"speaker1": 1, "speaker2": 1, "-1": 1, "1": 1, "0": 1, "A": 1, "A-": 1, "1-2": 1, "12": 1, "é": 1}, []),
    ],
)
def test_labels_that_look_alike(count: dict[str, int], alike: list[list[str]]) -> None:
    assert find_look_alikes(count) == alike


def test_labels_that_look_alike_are_said_with_the_option_that_joins_them(tmp_path: Path) -> None:
    root = touch(tmp_path, "train/Dog/a.wav train/dog/a.wav train/dog/b.wav train/cat/a.wav test/CAT/a.wav test/b.wav")
    touch(tmp_path, "train/x/a.wav train/y/a.wav")
    (root / "train" / "x").rename(root / "train" / "caf\u00e9")
    (root / "train" / "y").rename(root / "train" / "cafe\u0301")
    found, notes = labels(root)
    assert "'dog' (2 clips) and 'Dog' (1 clips)" in notes
    assert r"'caf\xe9' (1 clips) and 'cafe\u0301' (1 clips)" in notes
    assert found["CAT/a.wav"] == ""
    (option,) = options_in(notes)
    found, notes = labels(root, "--map", *option)
    assert set(found.values()) == {"dog", "CAT", "caf\u00e9", ""}
    assert "labels that differ only" not in notes
