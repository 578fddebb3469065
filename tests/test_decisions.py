"""preprocess.py --relabel: decisions about clips, their record, what they do to copies and folds, and the way back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import preprocess
import preprocessing.pipeline
import preprocessing.store
import preprocessing.workers
import system.paths
from arg import NO_LIST, PreprocessConfig, parse_preprocess
from dataset import Store
from preprocessing.decisions import read_record, shielded, unshielded
from system.errors import UserError
from system.paths import RECORD
from tests.conftest import one_error_line

RATE = 8000
HEADER = "fname,label,suggested,action"


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.random.default_rng(seed).integers(-9000, 9000, 800)
    soundfile.write(path, (wave - round(wave.mean())).astype(np.int16), RATE)


@pytest.fixture(autouse=True)
def _in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing.decode, "isolated", lambda task, chunks, lost: map(task, chunks))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four speakers who say no and yes, twice each; yes/s0_nohash_7 is yes/s0_nohash_0 to the sample."""
    root = tmp_path / "data"
    for speaker in range(4):
        for index, label in enumerate(("no", "yes")):
            for take in range(2):
                write(root / label / f"s{speaker}_nohash_{take}.wav", 100 * speaker + 10 * index + take)
    shutil.copy(root / "yes" / "s0_nohash_0.wav", root / "yes" / "s0_nohash_7.wav")
    return root


@pytest.fixture
def work(root: Path, tmp_path: Path) -> Path:
    preprocessing.pipeline.preprocess(PreprocessConfig(root, tmp_path / "work", folds=2))
    return tmp_path / "work"


def relabel(work: Path, *rows: str, header: str = HEADER) -> None:
    path = work.parent / "suspects.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    preprocessing.pipeline.preprocess(PreprocessConfig(None, work, relabel=path))


def labels(work: Path) -> dict[str, str]:
    return dict(preprocessing.store.load_clips(work)[["fname", "label"]].to_numpy())


def folds(work: Path) -> dict[str, int]:
    return dict(preprocessing.store.load_clips(work)[["fname", "fold"]].to_numpy())


def reasons(work: Path) -> dict[str, str]:
    return dict(preprocessing.store.load_rejected(work)[["fname", "reason"]].to_numpy())


def bytes_of(work: Path) -> dict[str, bytes]:
    return {
        name: (work / name).read_bytes()
        for name in (system.paths.CLIPS, system.paths.REJECTED, system.paths.STORE, RECORD)
    }


# ---------------------------------------------------------------------------------------------- what is decided


def test_relabel_drop_and_keep(root: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, hash_before = folds(work), Store.open(work).folds_hash
    files = {path: path.read_bytes() for path in root.rglob("*.wav")}
    relabel(
        work,
        "no/s1_nohash_0.wav,no,yes,relabel",
        "no/s2_nohash_0.wav,no,yes, Drop",
        "no/s3_nohash_0.wav,no,yes,keep",
        "no/s3_nohash_1.wav,no,yes,",
        "gone.wav,no,yes,",
    )
    said = capsys.readouterr().out
    assert "decided by hand: 1 relabelled, 1 dropped, 1 kept" in said
    after = labels(work)
    assert after["no/s1_nohash_0.wav"] == "yes"
    assert "no/s2_nohash_0.wav" not in after
    assert reasons(work)["no/s2_nohash_0.wav"] == "dropped by suspects.csv"
    assert sum(name.split("/")[0] != label for name, label in after.items()) == 1
    assert folds(work) == {name: fold for name, fold in before.items() if name in after}
    assert Store.open(work).folds_hash != hash_before
    assert {path: path.read_bytes() for path in root.rglob("*.wav")} == files
    record = read_record(work)
    assert [(d.action, d.label, d.new_label, d.source) for d in record.values()] == [
        ("relabel", "no", "yes", "suspects.csv"),
        ("drop", "no", "no", "suspects.csv"),
        ("keep", "no", "no", "suspects.csv"),
    ]


def test_twice_or_later_changes_nothing(root: Path, work: Path) -> None:
    rows = "no/s1_nohash_0.wav,no,yes,relabel", "no/s2_nohash_0.wav,no,yes,drop", "yes/s1_nohash_0.wav,yes,no,keep"
    relabel(work, *rows)
    once = bytes_of(work)
    relabel(work, *rows)
    assert bytes_of(work) == once
    preprocessing.pipeline.preprocess(PreprocessConfig(root, work, folds=2))
    assert bytes_of(work) == once
    (work / system.paths.CLIPS).write_text("damaged")
    preprocessing.pipeline.preprocess(PreprocessConfig(root, work, folds=2))
    assert labels(work)["no/s1_nohash_0.wav"] == "yes"
    assert "no/s2_nohash_0.wav" not in labels(work)


def test_every_decision_can_be_taken_back(root: Path, work: Path) -> None:
    before, size = bytes_of_store(work), (work / system.paths.WAVES).stat().st_size
    decided = "no/s1_nohash_0.wav,no,yes,relabel", *(f"yes/s3_nohash_{take}.wav,yes,no,drop" for take in range(2))
    relabel(work, *decided, *(f"no/s3_nohash_{take}.wav,no,,drop" for take in range(2)))  # all that s3 says
    relabel(work, *(row.rsplit(",", 1)[0] + ",keep" for row in decided), "no/s3_nohash_0.wav,no,,keep",
            "no/s3_nohash_1.wav,no,,keep")  # fmt: skip
    assert bytes_of_store(work) == before
    assert {decision.action for decision in read_record(work).values()} == {"keep"}
    relabel(work, *decided)
    preprocessing.pipeline.preprocess(PreprocessConfig(None, work, relabel=NO_LIST))
    assert bytes_of_store(work) == before
    assert not read_record(work)
    assert (work / system.paths.WAVES).stat().st_size == size  # nothing was decoded again


def bytes_of_store(work: Path) -> list[bytes]:
    return [(work / name).read_bytes() for name in (system.paths.CLIPS, system.paths.REJECTED, system.paths.STORE)]


def test_a_second_opinion(work: Path) -> None:
    """A list made after a relabelling says keep to the new label; the first list says keep to the old one."""
    name = "no/s1_nohash_0.wav"
    relabel(work, f"{name},no,yes,relabel")
    relabel(work, f"{name},yes,no,keep")
    assert labels(work)[name] == "yes"
    relabel(work, f"{name},yes,no,drop")
    assert name not in labels(work)
    relabel(work, f"{name},yes,no,keep")
    assert labels(work)[name] == "yes"
    relabel(work, f"{name},yes,no,relabel")
    assert labels(work)[name] == "no"


def test_copies_share_a_decision(root: Path, work: Path) -> None:
    """yes/s0_nohash_7.wav, a copy, neither contradicts a clip that is relabelled nor takes the place of one dropped."""
    relabel(work, "yes/s0_nohash_0.wav,yes,no,relabel")
    assert labels(work)["yes/s0_nohash_0.wav"] == "no"
    assert reasons(work) == {"yes/s0_nohash_7.wav": "duplicate of yes/s0_nohash_0.wav"}
    relabel(work, "yes/s0_nohash_0.wav,no,yes,drop")
    assert not {"yes/s0_nohash_0.wav", "yes/s0_nohash_7.wav"} & set(labels(work))
    assert (
        reasons(work)["yes/s0_nohash_7.wav"] == "dropped by suspects.csv, as is yes/s0_nohash_0.wav, of the same audio"
    )


def test_copies_of_several_decisions_come_out_the_same_later(root: Path, work: Path) -> None:
    shutil.copy(root / "yes" / "s0_nohash_0.wav", root / "yes" / "s0_nohash_8.wav")
    preprocessing.pipeline.preprocess(PreprocessConfig(root, work, folds=2))
    relabel(work, "yes/s0_nohash_7.wav,yes,,drop", "yes/s0_nohash_0.wav,yes,,drop")  # which leaves 8 to either
    once = bytes_of(work)
    preprocessing.pipeline.preprocess(PreprocessConfig(root, work, folds=2))
    assert bytes_of(work) == once


def test_a_decision_settles_copies_with_two_labels(root: Path, work: Path) -> None:
    shutil.copy(root / "no" / "s1_nohash_0.wav", root / "yes" / "s1_nohash_9.wav")
    preprocessing.pipeline.preprocess(PreprocessConfig(root, work, folds=2))
    assert {"no/s1_nohash_0.wav", "yes/s1_nohash_9.wav"} <= set(reasons(work))
    relabel(work, "yes/s1_nohash_9.wav,yes,no,relabel")
    assert labels(work)["no/s1_nohash_0.wav"] == "no"
    assert reasons(work)["yes/s1_nohash_9.wav"] == "duplicate of no/s1_nohash_0.wav"
    relabel(work, "yes/s1_nohash_9.wav,yes,,keep", "no/s1_nohash_0.wav,no,,drop")
    assert labels(work)["yes/s1_nohash_9.wav"] == "yes"


def test_near_duplicates_with_two_labels_are_flagged(root: Path, work: Path) -> None:
    wave, _ = soundfile.read(root / "no" / "s1_nohash_0.wav", dtype="int16")
    soundfile.write(root / "no" / "s1_nohash_9.wav", wave // 2, RATE)
    preprocessing.pipeline.preprocess(PreprocessConfig(root, work, folds=2))
    relabel(work, "no/s1_nohash_9.wav,no,yes,relabel")
    clips = preprocessing.store.load_clips(work).set_index("fname")
    assert clips["flags"]["no/s1_nohash_0.wav"] == clips["flags"]["no/s1_nohash_9.wav"] == "near-duplicate two-labels"
    assert clips["fold"]["no/s1_nohash_0.wav"] == clips["fold"]["no/s1_nohash_9.wav"]


def test_a_clip_that_is_gone_or_has_another_label_now(
    root: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    relabel(work, "no/s1_nohash_0.wav,no,yes,relabel", "no/s2_nohash_0.wav,no,,drop")
    (root / "no" / "s1_nohash_0.wav").unlink()
    pattern = r"(?P<label>.)/"  # n and o are no classes of before: s for yes, o for no
    preprocessing.pipeline.preprocess(PreprocessConfig(root, work, folds=2, label_pattern=pattern))
    said = capsys.readouterr().out
    assert "without effect, as the clip is gone or has another label now: 2 clips (no/s1_nohash_0.wav, no/s2" in said
    assert labels(work)["no/s2_nohash_0.wav"] == "o"


def test_folds_of_another_split_are_forgotten(root: Path, work: Path) -> None:
    """A clip that was dropped before the split changed comes back to where its speaker is now."""
    dropped = [f"{label}/s{speaker}_nohash_1.wav,{label}," for speaker in range(4) for label in ("no", "yes")]
    for seed in range(1, 6):
        relabel(work, *(f"{row},drop" for row in dropped))
        preprocessing.pipeline.preprocess(PreprocessConfig(root, work, folds=2, seed=seed))
        before = folds(work)
        relabel(work, *(f"{row},keep" for row in dropped))
        assert folds(work).items() > before.items()


def test_a_work_folder_for_other_data_says_that_its_record_counts(
    root: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    relabel(work, "no/s1_nohash_0.wav,no,yes,relabel")
    assert "made for that" not in capsys.readouterr().out
    other = root.rename(root.with_name("moved"))
    preprocessing.pipeline.preprocess(PreprocessConfig(other, work, folds=2))
    assert "relabel.csv was made for that, and applies to what has the same name" in capsys.readouterr().out
    assert labels(work)["no/s1_nohash_0.wav"] == "yes"


def test_a_list_of_any_name_and_a_record_from_an_editor(root: Path, work: Path) -> None:
    path = work.parent / "s\udcff.csv"  # a byte that is not UTF-8
    path.write_text(f"{HEADER}\nno/s1_nohash_0.wav,no,,drop\n")
    preprocessing.pipeline.preprocess(PreprocessConfig(None, work, relabel=path))
    assert reasons(work)["no/s1_nohash_0.wav"] == "dropped by s\N{REPLACEMENT CHARACTER}.csv"
    (work / RECORD).write_text("\ufeff" + (work / RECORD).read_text())
    preprocessing.pipeline.preprocess(PreprocessConfig(root, work, folds=2))
    assert "no/s1_nohash_0.wav" not in labels(work)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (["no/x.wav,no,yes,drop"], "line 3: 'no/x.wav': the data set has no such training clip"),
        (["no/s1_nohash_0.wav,yes,no,drop"], "is labelled 'no', not 'yes' as here"),
        (["no/s1_nohash_0.wav,no,yess,relabel"], "'yess' under suggested is no class; use one of no, yes"),
        (["no/s1_nohash_0.wav,no,,relabel"], "'' under suggested is no class"),
        (["no/s1_nohash_0.wav,no,yes,delete"], "action 'delete': use relabel, drop, keep, or nothing"),
        (["no/s1_nohash_0.wav,no,yes,drop", "no/s1_nohash_0.wav,no,yes,relabel"], "line 4: .* contradicts line 3"),
        (["no/s1_nohash_0.wav,no,yes,drop,?"], "5 fields where the header has 4"),
        (["no/x.wav,no,,drop", "no/y.wav,no,,drop", "no/z.wav,no,,drop"], r"x.wav.*\(2 more lines have faults\)"),
    ],
)
def test_a_list_with_a_fault_changes_nothing(work: Path, rows: list[str], what: str) -> None:
    before = bytes_of_store(work)
    with pytest.raises(UserError, match=what) as caught:
        relabel(work, "no/s3_nohash_0.wav,no,yes,relabel", *rows)
    assert "\n" not in str(caught.value)
    assert "nothing was changed" in str(caught.value)
    assert bytes_of_store(work) == before
    assert not (work / RECORD).exists()


def test_files_that_are_no_lists(work: Path) -> None:
    with pytest.raises(UserError, match=r"suspects\.csv: no column 'action'; --relabel needs fname, label"):
        relabel(work, "a,b,c", header="fname,label,suggested")
    with pytest.raises(UserError, match=r"missing\.csv: cannot be read"):
        preprocessing.pipeline.preprocess(PreprocessConfig(None, work, relabel=Path("missing.csv")))
    (work / RECORD).write_text("fname\nx\n")
    with pytest.raises(UserError, match=r"relabel\.csv cannot be read .*delete it to take all decisions back"):
        relabel(work)


def test_a_list_as_spreadsheets_write_it(work: Path) -> None:
    path = work.parent / "suspects.csv"
    rows = ["action;group;label;fname;suggested", "RELABEL;s1;no;no/s1_nohash_0.wav;yes", ";;;;"]
    path.write_text("\ufeff" + "\r\n".join(rows) + "\r\n", newline="")
    preprocessing.pipeline.preprocess(PreprocessConfig(None, work, relabel=path))
    assert labels(work)["no/s1_nohash_0.wav"] == "yes"


def test_names_that_a_spreadsheet_would_run_come_back(tmp_path: Path) -> None:
    for text in ("=1+1", "'=1", "''-x", "@a", "+1", "plain", "'quoted'", "", "a=b"):
        assert unshielded(shielded(text)) == text
        assert not shielded(text).startswith(("=", "+", "-", "@"))
    root, work = tmp_path / "data", tmp_path / "work"
    for seed in range(6):
        write(root / ("=no" if seed % 2 else "-1") / f"+{seed}_nohash_0.wav", seed)
    preprocessing.pipeline.preprocess(PreprocessConfig(root, work, folds=2))
    relabel(work, "'=no/+1_nohash_0.wav,'=no,'-1,relabel", "=no/+3_nohash_0.wav,=no,,drop")
    assert labels(work)["=no/+1_nohash_0.wav"] == "-1"
    assert "=no/+3_nohash_0.wav" in reasons(work)


# ------------------------------------------------------------------------------------------------- the command


def test_the_command_alone_keeps_the_options_of_the_last_run(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, list_ = tmp_path / "work", tmp_path / "suspects.csv"
    list_.write_text(f"{HEADER}\nno/s1_nohash_0.wav,no,yes,relabel\n")
    assert preprocess.main(["--relabel", str(list_), "-w", str(work)]) == 2
    assert "store.json is missing" in one_error_line(capsys)
    options = ["-k", "3", "--seed", "4", "--clip-seconds", "0.07", "--sample-rate", "4000", "--group", "none"]
    assert preprocess.main(["-i", str(root), "-w", str(work), *options]) == 0
    facts, before = preprocessing.store.load_store(work), folds(work)
    assert preprocess.main(["--relabel", str(list_), "-w", str(work)]) == 0
    assert preprocessing.store.load_store(work) == facts
    assert folds(work) == before
    assert labels(work)["no/s1_nohash_0.wav"] == "yes"
    assert preprocess.main(["--relabel", "none", "-w", str(work)]) == 0
    assert labels(work)["no/s1_nohash_0.wav"] == "no"
    assert preprocess.main(["--relabel", str(list_), "-k", "5"]) == 2  # the default, but not what the last run had
    assert "--folds: give -i too" in one_error_line(capsys)


def test_what_is_dropped_by_hand_is_no_error_under_strict(root: Path, tmp_path: Path) -> None:
    (root / "yes" / "s0_nohash_7.wav").unlink()
    config: Any = {"input_path": root, "work": tmp_path / "work", "folds": 2, "strict": True}
    preprocessing.pipeline.preprocess(PreprocessConfig(**config))
    relabel(tmp_path / "work", "no/s1_nohash_0.wav,no,yes,drop")
    preprocessing.pipeline.preprocess(PreprocessConfig(**config))


def test_a_class_that_is_decided_away(root: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(root / "up" / "s0_nohash_0.wav", 999)
    preprocessing.pipeline.preprocess(PreprocessConfig(root, work, folds=2))
    relabel(work, "up/s0_nohash_0.wav,up,no,relabel")
    assert "no clip is left, by what relabel.csv says, of 1 class (up)" in capsys.readouterr().out
    assert preprocessing.store.load_store(work)["classes"] == ["no", "yes"]
    relabel(work, "up/s0_nohash_0.wav,no,up,relabel")
    assert preprocessing.store.load_store(work)["classes"] == ["no", "up", "yes"]


def test_without_decisions_there_is_no_record(work: Path) -> None:
    assert not (work / RECORD).exists()
    assert parse_preprocess(["-i", "x"]).relabel is None
