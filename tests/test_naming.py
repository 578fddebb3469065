"""What the names of files tell: labels, speakers, recordings; proposed as options that work as they are typed."""

from __future__ import annotations

import random
import re
import shlex
import time
import uuid
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

import pytest

import preprocessing.scan
from arg import parse_preprocess
from preprocess import main
from preprocessing.files import File
from preprocessing.naming import propose
from preprocessing.store import load_clips
from preprocessing.words import group_by_words
from system.errors import UserError
from tests.conftest import one_error_line
from tests.preparing import noise, touch, write

WORDS = ("zero", "one", "two", "three", "four", "five")
NAMES = ("jackson", "theo", "nicolas", "anna")
DRAW = random.Random(0)

Clip = tuple[str, str, str]  # its name, label and group


def read(clips: Iterable[Clip], labelled: bool) -> dict[str, str]:
    """The options that the names of clips get proposed, which find all labels and groups; {} where there are none."""
    clips = list(clips)
    told = propose([name for name, _, _ in clips], [label if labelled else "" for _, label, _ in clips])
    if told is None:
        return {}
    found = {what: re.compile(told.options[f"{what}_pattern"]) for what in ("label", "group")
             if f"{what}_pattern" in told.options}  # fmt: skip
    for name, label, group in clips:
        for what, wanted in (("label", label), ("group", group)):
            if what in found:
                match = found[what].search(name)
                assert match
                assert match[what] == wanted
    return told.options


def clips_of(form: str, label: str, group: str, **parts: Iterable[object]) -> list[Clip]:
    """All combinations of the parts in a form, and which of them is the label and the group."""
    rows = [dict(zip(parts, values, strict=True)) for values in product(*map(list, parts.values()))]
    return [(form.format(**row), label.format(**row), group.format(**row)) for row in rows]


ESC = [(f"{fold}-{source}", take, kind) for kind in range(10) for fold in range(1, 6)
       for source in DRAW.sample(range(1000, 260_000), 3) for take in "ABC"[: DRAW.randint(1, 3)]]  # fmt: skip
URBAN = [(source, kind, times, part) for kind in range(10) for source in DRAW.sample(range(1000, 200_000), 8)
         for times in range(DRAW.randint(1, 3)) for part in range(DRAW.randint(1, 5))]  # fmt: skip
FLAT = {
    "Free Spoken Digits": clips_of("{d}_{s}_{n}.wav", "{d}", "{s}", d=range(10), s=NAMES, n=range(5)),
    "few of them": clips_of("{d}_{s}_{n}.wav", "{d}", "{s}", d=range(3), s=NAMES[:2], n=range(3)),
    "in a folder": clips_of("recordings/{d}_{s}_{n}.wav", "{d}", "{s}", d=range(10), s=NAMES, n=range(5)),
    "ESC-50": [(f"{first}-{take}-{kind}.wav", str(kind), first[2:]) for first, take, kind in ESC],
    "UrbanSound8K": [(f"{s}-{c}-{o}-{p}.wav", str(c), str(s)) for s, c, o, p in URBAN],
    "RAVDESS": clips_of("03-01-0{e}-01-0{s}-0{r}-{a:02}.wav", "0{e}", "{a:02}",
                        e=range(1, 9), s=(1, 2), r=(1, 2), a=range(1, 25)),
    "CREMA-D": clips_of("{a}_{s}_{e}_XX.wav", "{e}", "{a}", a=range(1001, 1012), s=("DFA", "IEO", "TSI"),
                        e=("ANG", "DIS", "FEA", "HAP")),
    "EMO-DB": clips_of("{s:02}{t}{e}a.wav", "{e}", "{s:02}", s=(3, 8, 9, 10), t=("a01", "b02"), e="WLEAFTN"),
    "SAVEE": clips_of("{s}_{e}{n:02}.wav", "{e}", "{s}", s=("DC", "JE"), e=("a", "sa", "su"), n=range(1, 6)),
    "hyphens": clips_of("{w}-{s}-{n:02}.wav", "{w}", "{s}", w=("yes", "no"), s=NAMES, n=range(4)),
    "the word second": clips_of("{s}-{w}-{n:02}.wav", "{w}", "{s}", w=("yes", "no"), s=NAMES, n=range(4)),
    "words for parts": clips_of("speaker{s:02}_take{n}_{w}.wav", "{w}", "speaker{s:02}", w=("ja", "nein"),
                                s=range(1, 7), n=(1, 2, 3)),
    "AudioMNIST": clips_of("{d}_{s:02}_{n}.wav", "{d}", "{s:02}", d=range(10), s=range(1, 13), n=range(5)),
    "letters": clips_of("größe_{w}_{s} ({n}).wav", "{w}", "{s}", w=("ja", "nein"), s=("änne", "søren"), n=range(4)),
}  # fmt: skip


@pytest.mark.parametrize("kind", FLAT)
def test_names_in_one_folder_tell_labels_and_groups(kind: str) -> None:
    assert set(read(FLAT[kind], labelled=False)) == {"label_pattern", "group_pattern"}


@pytest.mark.parametrize("kind", FLAT)
def test_the_same_names_tell_groups_where_labels_are_known(kind: str) -> None:
    assert set(read(FLAT[kind], labelled=True)) == {"group_pattern"}
    inside = [(f"data/{label}/{name}", label, group) for name, label, group in FLAT[kind]]
    assert set(read(inside, labelled=True)) == {"group_pattern"}


@pytest.mark.parametrize("form", ["{w}_{n:03}.wav", "{w} ({n}).wav", "{w}{n}.wav", "{w}-{n}.flac"])
def test_names_that_tell_a_label_alone(form: str) -> None:
    clips = clips_of(form, "{w}", "", w=("dog", "cow", "horse"), n=range(9))
    assert set(read(clips, labelled=False)) == {"label_pattern"}
    assert read([(f"{label}/{name}", label, "") for name, label, _ in clips], labelled=True) == {}


SENTENCES = ("SA1", "SA2", "SX3", "SI5")
LABELLED: dict[str, list[Clip]] = {
    "a folder a speaker": clips_of("{w}/{s}/{n}.wav", "{w}", "{s}", w=WORDS, s=NAMES, n=range(3)),
    "TIMIT": [(f"DR{r}/F{a}{b}J0/{s}{n}.WAV", f"DR{r}", f"F{a}{b}J0") for r, a in ((1, "A"), (2, "B"))
              for b in "KLMN" for n, s in enumerate(("SA1", "SX2", "SI"))],
    "a name": clips_of("{w}/{s}.wav", "{w}", "{s}", w=("ja", "nein", "doch"), s=NAMES),
    "a name with a number": clips_of("{w}/{s}{n:02}.wav", "{w}", "{s}", w=WORDS, s=NAMES, n=range(4)),
    "codes": clips_of("{w}/{g}{s:02}_{n}.wav", "{w}", "{g}{s:02}", w=WORDS, g="mf", s=range(1, 5), n=range(3)),
    "TIMIT's regions": [(f"TRAIN/DR{r}/F0{r}{s}/SA{n}.WAV", f"DR{r}", f"F0{r}{s}") for r in range(3) for s in range(4)
                        for n in range(4)],
    "VCTK": [(f"{'mf'[s % 2]}/p{s}_{n:03}.wav", "mf"[s % 2], f"p{s}") for s in range(225, 240) for n in range(9)],
    "slices of recordings": [(f"{w}/XC{x}_{n}.wav", w, f"XC{x}") for w in WORDS
                             for x in DRAW.sample(range(10_000, 999_999), 8) for n in range(4)],
    "LibriSpeech": [(f"{'mf'[s % 2]}/{s}-{c}-{n:04}.flac", "mf"[s % 2], str(s))
                    for s in DRAW.sample(range(10, 9000), 12) for c in DRAW.sample(range(100, 199_999), 2)
                    for n in range(5)],
    "machines": clips_of("fault{f}/motor{m}_{n}.wav", "fault{f}", "motor{m}", f=(1, 2, 3), m=range(1, 6), n=range(4)),
}  # fmt: skip


@pytest.mark.parametrize("kind", LABELLED)
def test_names_in_class_folders_tell_groups(kind: str) -> None:
    assert set(read(LABELLED[kind], labelled=True)) == {"group_pattern"}


SPEAKERS: dict[str, list[Clip]] = {
    "RAVDESS": [(f"Actor_{group}/{name}", label, group) for name, label, group in FLAT["RAVDESS"]],
    "AudioMNIST": [(f"{group}/{name}", label, group) for name, label, group in FLAT["AudioMNIST"]],
    "TIMIT": [(f"F{a}{b}J0/{s}.WAV", s, f"F{a}{b}J0") for a in "AB" for b in "KLM" for s in SENTENCES],
    "words": clips_of("{s}/{w}_{n}.wav", "{w}", "{s}", s=NAMES, w=WORDS, n=range(3)),
    "folders of words": clips_of("{s}/{w}/{n}.wav", "{w}", "{s}", s=("s1", "s2", "s3"), w=WORDS, n=range(3)),
    "TESS": [
        (f"{s}AF_{e}/{s}AF_{w}_{e}.wav", e, f"{s}AF")
        for s in "OY"
        for e in ("angry", "sad")
        for w in ("back", "bar", "base", "bath")
    ],
    "ids": clips_of("speaker{s}/{w}.wav", "{w}", "speaker{s}", s=range(6), w=("ja", "nein", "doch")),
}


@pytest.mark.parametrize("kind", SPEAKERS)
def test_folders_that_are_speakers(kind: str) -> None:
    clips = SPEAKERS[kind]
    told = propose([name for name, _, _ in clips], [name.partition("/")[0] for name, _, _ in clips])
    assert told
    assert set(told.options) == {"label_pattern", "group_pattern"}
    for name, label, group in clips:
        for what, wanted in (("label", label), ("group", group)):
            found = re.search(told.options[f"{what}_pattern"], name)
            assert found
            assert found[what] == wanted


def moment() -> str:
    day = f"{DRAW.randint(2019, 2024)}-{DRAW.randint(1, 12):02}-{DRAW.randint(1, 28):02}"
    return f"{day}_{DRAW.randint(0, 23):02}-{DRAW.randint(0, 59):02}-{DRAW.randint(0, 59):02}"


def title() -> str:
    words = re.findall(r"\w+", "dog bark in the park near my house at night loud field recording of rain on roof cat")
    return f"{DRAW.randint(1, 600_000)}_{'-'.join(DRAW.sample(words, DRAW.randint(2, 5)))}"


def month() -> str:
    return DRAW.choice(("Jan", "Feb", "Mar", "Apr"))


SILENT: dict[str, Callable[[str, int], str]] = {
    "counter": lambda word, n: f"{n}",
    "clip and counter": lambda word, n: f"clip_{n:04}",
    "class and counter": lambda word, n: f"{word}_{n}",
    "class (counter)": lambda word, n: f"{word} ({n})",
    "uuid": lambda word, n: str(uuid.UUID(int=DRAW.getrandbits(128), version=4)),
    "hash": lambda word, n: f"{DRAW.getrandbits(40):010x}",
    "two hashes": lambda word, n: f"{DRAW.getrandbits(32):08x}-{DRAW.getrandbits(32):08x}",
    "freesound": lambda word, n: f"{DRAW.randint(1, 600_000)}",
    "title": lambda word, n: title(),
    "date": lambda word, n: moment(),
    "date in one": lambda word, n: moment().replace("-", ""),
    "date and counter": lambda word, n: f"rec_{moment()[:10].replace('-', '')}_{n:02}",
    "date in another order": lambda word, n: "-".join(reversed(moment()[:10].split("-"))) + f"_{n}",
    "months": lambda word, n: f"{month()}_{DRAW.randint(1, 28):02}_2024_{n}",
    "months in one": lambda word, n: f"{DRAW.randint(1, 28):02}{month()}2024_{n}",
    "short dates": lambda word, n: f"24{DRAW.randint(1, 12):02}{DRAW.randint(1, 28):02}_{n:03}",
    "folders of dates": lambda word, n: f"2024/{DRAW.randint(1, 12):02}/{DRAW.randint(1, 28):02}/{n}",
    "a phone's": lambda word, n: f"AUD-2024{DRAW.randint(1, 12):02}{DRAW.randint(1, 28):02}-WA{n:04}",
    "several forms": lambda word, n: DRAW.choice(
        ("Recording ({n})", "New Voice {n}", "{word}_{n}", "Copy of {word}{n}")
    ).format(word=word, n=n),
    "letters of takes": lambda word, n: f"{1000 * len(word) + n}-{'ABC'[n % 3]}",
    "numbers and letters": lambda word, n: f"{n // 2}{'ab'[n % 2]}",
    "measure": lambda word, n: f"{word}_{(0, 5, 10)[n % 3]}dB_{n // 3}",
    "years": lambda word, n: f"{2019 + n % 2}_{n // 2:02}_{word}",
    "condition": lambda word, n: f"{word}_{('clean', 'noisy')[n % 2]}_{n // 2}",
    "a class of another name": lambda word, n: f"{word.upper()[:2]}_{n}",
}


@pytest.mark.parametrize("kind", SILENT)
def test_names_that_tell_nothing(kind: str) -> None:
    clips = [(f"{word}/{SILENT[kind](word, n)}.wav", word, "") for word in WORDS for n in range(60)]
    assert read(clips, labelled=True) == {}
    if kind in ("counter", "clip and counter", "uuid", "hash", "freesound", "date", "title"):
        flat = [(f"{SILENT[kind]('', n)}.wav", "", "") for n in range(300)]
        assert read(flat, labelled=False) == {}


def ten_digits(word: str, clips: int = 4) -> list[tuple[str, str]]:
    """Names of a set of spoken digits as they are, and their speakers."""
    forms = ("Speakerone_{w}_{n:03}", "{w}_speakertwo_ ({n})", "SPEAKERTHREE_{W}_ ({n})", "Speakerfour_{w} {n}")
    speakers = ("speakerone", "speakertwo", "speakerthree", "speakerfour")
    return [(form.format(w=word, W=word.upper(), n=n) + ".wav", speaker)
            for form, speaker in zip(forms, speakers, strict=True) for n in range(clips)]  # fmt: skip


MIXED: dict[str, list[Clip]] = {
    "the ten digits": [(f"{w}/{name}", w, speaker) for w in WORDS for name, speaker in ten_digits(w)],
    "folders of another name": [(f"{k}/{name}", str(k), who) for k, w in enumerate(WORDS)
                                for name, who in ten_digits(w)],
    "glued": [(f"{w}/{name}", w, who) for w in WORDS for n in range(4) for name, who in (
        (f"anna{w.upper()}{n}.wav", "anna"), (f"{w}-bob_ ({n}).wav", "bob"), (f"{w.title()}Carl {n}.wav", "carl"))],
    "glued codes": [(f"{w}/m0{s}{w}{n}.wav", w, f"m0{s}") for w in WORDS for s in range(1, 9) for n in range(4)],
    "numbers of takes": [(f"{w}/{name}", w, who) for w in WORDS for n in range(4) for name, who in (
        (f"anna{n}_{w}.wav", "anna"), (f"{w}-bob{n}.wav", "bob"), (f"{w.title()} Carl{n}.wav", "carl"))],
    "numbers of speakers": [(f"{w}/{name}", w, f"speaker{s}") for w in WORDS for s in range(1, 5) for n in range(3)
                            for name in (f"speaker {s} {w} {n}.wav", f"{w}_Speaker{s}_({n}).wav",
                                         f"SPEAKER_{s}-{w}{n}.wav")],
    "conditions": [(f"{w}/{name}", w, s) for w in WORDS for s in NAMES for q in ("clean", "noisy") for n in range(3)
                   for name in (f"{s.upper()} {w} {q} {n}.wav", f"{w}_{q}_{s}_({n}).wav")],
    "accents": [(f"{w}/{s}_{n}.wav", w, g) for w in WORDS for n in range(3)
                for s, g in (("a\u0308nne", "\u00e4nne"), ("so\u0308ren", "s\u00f6ren"), ("bob", "bob"))],
    "capitals": [(f"{w}/{case(s)}_{w}_{n}.wav", w, s) for w in WORDS for s in NAMES
                 for n, case in enumerate((str.upper, str.title, str.lower))],
}  # fmt: skip


@pytest.mark.parametrize("kind", MIXED)
def test_words_without_a_place_and_case(kind: str) -> None:
    clips = MIXED[kind]
    assert read(clips, labelled=True) == {"group": "names"}
    files = [File("train", name, 0, 0, label, name) for name, label, _ in clips]
    assert [file.group for file in group_by_words(files)] == [group for _, _, group in clips]
    fewer = group_by_words(files[::2])  # a group is the same with more files
    assert [file.group for file in fewer] == [group for _, _, group in clips[::2]]


def typed(text: str) -> list[str]:
    """The words of the command that a message ends with."""
    return shlex.split(text[text.index("python preprocess.py") :])[2:]


def test_an_error_that_is_a_proposal_works_as_it_is_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, work = tmp_path / "free spoken digits", tmp_path / "work"
    for row, (digit, speaker, n) in enumerate(product("012", NAMES, range(2))):
        write(root / "recordings" / f"{digit}_{speaker}_{n}.wav", row)
    for folder in (root, root / "recordings"):
        assert main(["-i", str(folder), "-w", str(work)]) == 2
        error = one_error_line(capsys)
        assert "3 labels in part 1 of 3 of the names (0, 1, 2; 8 clips each)" in error
        assert "4 groups in part 2 of 3 of the names (anna, jackson, nicolas, ...; 6 clips each)" in error
        assert "as in " in error
        assert main(typed(error)) == 0
        clips = load_clips(work)
        names = clips["fname"].str.rpartition("/")[2].str.split("_")
        assert clips["label"].tolist() == names.str[0].tolist()
        assert clips["group"].tolist() == names.str[1].tolist()
        assert "no groups found" not in capsys.readouterr().out


def test_a_warning_that_is_a_proposal_works_as_it_is_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, work = tmp_path / "data", tmp_path / "work"
    clips = [(f"{word}/{name}", speaker) for word in ("four", "five") for name, speaker in ten_digits(word, 2)]
    for row, (name, _) in enumerate(clips):
        write(root / "train" / name, row)
    write(root / "test" / "Speakerone_seven.wav", 99)
    assert main(["-i", str(root), "-w", str(work), "--seed", "3"]) == 0
    out = capsys.readouterr().out
    (warning,) = (line for line in out.splitlines() if "no groups found" in line)
    assert "4 groups in the words of the names (speakerfour, speakerone, speakerthree, ...; 4 clips each)" in warning
    assert not load_clips(work)["group"].any()  # a proposal, no more
    assert typed(warning)[-4:] == ["--seed", "3", "--group", "names"]
    assert main(typed(warning)) == 0
    found = load_clips(work).set_index("fname")
    assert found["group"].to_dict() == {f"train/{name}": who for name, who in clips} | {
        "Speakerone_seven.wav": "speakerone"
    }
    assert found[found["split"] == "train"].groupby("group")["fold"].nunique().max() == 1
    capsys.readouterr()
    assert main(typed(warning)) == 0
    assert "nothing has changed" in capsys.readouterr().out


def test_names_in_a_manifest_are_read_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"clips/{speaker}-{n}.wav" for speaker in NAMES for n in range(4)]
    for row, name in enumerate(names):
        write(tmp_path / name, row)
    rows = [f"{name},{WORDS[n % 2]}" for n, name in enumerate(names)]
    (tmp_path / "all.csv").write_text("\n".join(["path,label", *rows]))
    assert main(["--manifest", str(tmp_path / "all.csv"), "-w", str(tmp_path / "work")]) == 0
    (warning,) = (line for line in capsys.readouterr().out.splitlines() if "no groups found" in line)
    assert main(typed(warning)) == 0
    assert sorted(set(load_clips(tmp_path / "work")["group"])) == sorted(NAMES)


def test_parts_of_recordings_are_read_by_the_names_of_these(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for form, wanted in (("{s}-{n}.wav", ["anna", "jackson", "nicolas", "theo"]), ("{s}{s}.wav", None)):
        root = tmp_path / form.strip("{}.wav")
        names = sorted({form.format(s=s, n=n) for s in NAMES for n in range(2)})
        for row, name in enumerate(names):
            write(root / name, noise(row, 4800))
        rows = [f"{name},{word},{at},{at + 0.1}" for name in names for word, at in (("yes", 0), ("no", 0.15))]
        (root / "all.csv").write_text("\n".join(["path,label,start,end", *rows]))
        assert main(["--manifest", str(root / "all.csv"), "-w", str(root / "work")]) == 0
        warnings = [line for line in capsys.readouterr().out.splitlines() if "no groups found" in line]
        assert bool(warnings) == bool(wanted)  # else each recording is a group, and its name tells no more
        if wanted:
            assert main(typed(warnings[0])) == 0
            assert sorted(set(load_clips(root / "work")["group"])) == wanted


def test_no_proposal_where_groups_are_known_or_unwanted(tmp_path: Path) -> None:
    root = touch(tmp_path, " ".join(f"{w}/{s}_nohash_{n}.wav" for w in WORDS for s in NAMES for n in range(2)))
    assert {f.group for f in preprocessing.scan.scan(parse_preprocess(["-i", str(root)])).files} == set(NAMES)
    with pytest.raises(UserError, match="--group-pattern and --group names: give one"):
        parse_preprocess(["-i", "x", "--group", "names", "--group-pattern", "(?P<group>.)"])
    touch(tmp_path / "two", "no/1.wav no/2.wav yes/1.wav yes/2.wav")
    with pytest.raises(UserError, match="--group names: the words of the names tell no two groups"):
        preprocessing.scan.scan(parse_preprocess(["-i", str(tmp_path / "two"), "--group", "names"]))


def test_many_names_are_read_at_once() -> None:
    names = [f"{word}/{name}" for word in WORDS for name, _ in ten_digits(word, 2500)]
    started = time.perf_counter()
    assert propose(names, [name.partition("/")[0] for name in names])
    assert time.perf_counter() - started < 4  # 0.6 s for 60,000


def test_names_tell_what_folders_of_folds_do_not(tmp_path: Path) -> None:
    rows = [(source, kind, part) for kind in (0, 3) for source in (100032 + kind, 9031 + kind) for part in range(3)]
    root = touch(tmp_path, " ".join(f"fold{1 + s % 2}/{s}-{c}-0-{p}.wav" for s, c, p in rows))
    with pytest.raises(UserError, match="2 labels in their place in the names of UrbanSound8K") as error:
        preprocessing.scan.scan(parse_preprocess(["-i", str(root)]))
    files = preprocessing.scan.scan(parse_preprocess(typed(str(error.value)))).files
    found = {(int(f.group), int(f.label), f.fold) for f in files}
    assert found == {(source, kind, str(1 + source % 2)) for source, kind, _ in rows}
