"""Manifests: their columns, and what they may name."""

from __future__ import annotations

import dataclasses
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import preprocessing.archives
import preprocessing.pipeline
import preprocessing.scan
import preprocessing.store
from arg import PreprocessConfig, parse_preprocess
from system.errors import UserError
from tests.preparing import scan, touch

RATE = 8000


def write(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).integers(-9000, 9000, 800).astype(np.int16), RATE)
    return path


def test_a_manifest_beside_or_apart_from_the_clips(tmp_path: Path) -> None:
    touch(tmp_path / "audio", "a.wav b.wav c.wav")
    manifest = tmp_path / "meta.csv"
    manifest.write_text("filename;category;target;Speaker ID;subset\na.wav;no;0;x;\nb.wav;yes;1;;\nc.wav;no;0;y;test\n")
    files, notes = scan(tmp_path / "audio", manifest=manifest)
    assert files == [
        ("train", "a.wav", "no", "x", ""),
        ("train", "b.wav", "yes", "", ""),
        ("test", "c.wav", "no", "y", ""),
    ]
    assert "path=filename, label=category, group=Speaker ID, split=subset" in notes
    (tmp_path / "audio" / "meta.csv").write_text(manifest.read_text())
    assert parse_preprocess(["--manifest", str(tmp_path / "audio" / "meta.csv")]).input_path == tmp_path / "audio"


def test_columns_by_option(tmp_path: Path) -> None:
    root = touch(tmp_path, "a.wav b.wav")
    manifest = root / "meta.csv"
    manifest.write_text("path,label,what is it,who\nnone,x,no,1\nnone,x,yes,2\n")
    manifest.write_text(manifest.read_text().replace("none", "a.wav", 1).replace("none", "b.wav", 1))
    config = parse_preprocess(["--manifest", str(manifest), "--columns", "label=what is it", "group=who"])
    assert [(f.label, f.group) for f in preprocessing.scan.scan(config).files] == [("no", "1"), ("yes", "2")]
    with pytest.raises(UserError, match="no column 'gone'; it has path, label, what is it, who"):
        preprocessing.scan.scan(PreprocessConfig(root, manifest=manifest, columns=(("fold", "gone"),)))
    files, _ = scan(root, manifest=manifest, label_pattern=r"(?P<label>[ab])\.wav")
    assert [file[2] for file in files] == ["a", "b"]


def test_a_manifest_reads_nothing_outside_its_folder(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for n in range(4):
        write(root / f"{n}.wav", n)
    secret = write(tmp_path / "secret.wav", 9)
    write(tmp_path / "data2" / "near.wav", 10)
    bad = ["../secret.wav", "x/../../secret.wav", str(secret), "..", "../data2/near.wav", "..\\secret.wav", "/dev/zero"]
    rows = [f"{n}.wav,{'xy'[n % 2]}" for n in range(4)] + [f"{path},x" for path in bad] + ["./x/../3.wav,y"]
    (root / "all.csv").write_text("\n".join(["path,label", *rows]))
    preprocessing.pipeline.preprocess(PreprocessConfig(root, tmp_path / "work", manifest=root / "all.csv", folds=2))
    assert preprocessing.store.load_clips(tmp_path / "work")["fname"].tolist() == ["0.wav", "1.wav", "2.wav", "3.wav"]
    rejected = preprocessing.store.load_rejected(tmp_path / "work").set_index("fname")["reason"]
    assert rejected.pop("3.wav").endswith("repeats line 5")
    assert set(rejected.index) == set(bad)
    assert rejected.str.contains("leaves the folder").all()


# ------------------------------------------------------------------------------------- a name finds its file


def rows_of(table: str, folder: Path, name: str = "m.csv") -> Path:
    """A manifest whose rows are separated by spaces."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("\n".join(table.split()) + "\n")
    return path


def taken(root: Path | None, manifest: Path, **options: Any) -> tuple[list[tuple[str, str, str]], str]:
    """(fname, label, reason) of each file and the notes; `root` None: no -i."""
    words = ["--manifest", str(manifest), *(["-i", str(root)] if root else [])]
    data = preprocessing.scan.scan(dataclasses.replace(parse_preprocess(words), **options))
    return [(file.fname, file.label, file.reason) for file in data.files], "\n".join(data.notes)


@pytest.mark.parametrize("given", ["", "audio", "metadata", None])
def test_names_without_their_folders(tmp_path: Path, given: str | None) -> None:
    root = touch(tmp_path / "urban", "audio/fold1/1.wav audio/fold2/1.wav audio/fold10/2.wav audio/fold1/3.wav")
    manifest = rows_of("slice_file_name,fold,class 1.wav,1,dog 1.wav,2,cat 2.wav,10,cat 3.wav,1,dog", root / "metadata")
    files, notes = taken(None if given is None else root / given, manifest)
    top = "" if given == "audio" else "audio/"
    assert files == [
        (f"{top}fold1/1.wav", "dog", ""),
        (f"{top}fold1/3.wav", "dog", ""),
        (f"{top}fold10/2.wav", "cat", ""),
        (f"{top}fold2/1.wav", "cat", ""),
    ]
    assert "of 4 names in the manifest were found 4 without their folder" in notes
    assert ("holds no audio, so names are relative to the folder above" in notes) == (given in ("metadata", None))


def test_a_name_is_never_that_of_another_fold_split_or_label(tmp_path: Path) -> None:
    root = touch(tmp_path, "fold1/1.wav fold1/2.wav dog/3.wav cat/4.wav train/5.wav")
    table = "file,fold,label,split 1.wav,1,dog, 2.wav,2,cat, 3.wav,1,cat, 4.wav,1,cat, 5.wav,1,dog,test 5.wav,1,dog,val"
    files, _ = taken(root, rows_of(table, root))
    assert [(name, label) for name, label, reason in files if not reason] == [
        ("cat/4.wav", "cat"),
        ("fold1/1.wav", "dog"),
        ("train/5.wav", "dog"),
    ]
    assert [(name, reason) for name, _, reason in files if reason] == [
        ("2.wav", "line 3: no such file; fold1/2.wav lies in a folder of another label, fold or split"),
        ("3.wav", "line 4: no such file; dog/3.wav lies in a folder of another label, fold or split"),
        ("5.wav", "line 6: no such file; train/5.wav lies in a folder of another label, fold or split"),
    ]


@pytest.mark.parametrize(
    ("written", "how"),
    [
        ("audio/Clip 1.wav", ""),
        (".//audio/Clip 1.wav", ""),
        ("audio\\Clip 1.wav", ""),
        ("Clip 1.wav", "without their folder"),
        ("Clip 1", "without their folder"),
        ("audio/Clip 1", "with another ending or none"),
        ("audio/Clip 1.mp3", "with another ending or none"),
        ("audio/clip 1.WAV", "in other capitals"),
        ("D:\\sets\\birds\\audio\\Clip 1.wav", "without their folder"),
        ("D:/sets/birds/audio/Clip 1.wav", "without their folder"),
        ("/home/somebody/birds/audio/Clip 1.wav", "without their folder"),
        ("../birds/audio/Clip 1.wav", "without their folder"),
        ("s3://bucket/birds/Clip 1.wav", "without their folder"),
    ],
)
def test_a_name_as_people_write_it(tmp_path: Path, written: str, how: str) -> None:
    root = touch(tmp_path / "data", "audio/b.wav audio/c.wav")
    (root / "audio" / "Clip 1.wav").write_text("x")
    manifest = root / "m.csv"
    manifest.write_text(f"path,label\n{written},yes\naudio/b.wav,no\n")
    files, notes = taken(root, manifest)
    assert files == [("audio/Clip 1.wav", "yes", ""), ("audio/b.wav", "no", "")]
    assert f"1 {how}" in notes if how else "were found" not in notes


def test_absolute_paths_through_links(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "a.wav b.wav")
    (tmp_path / "link").symlink_to(root)
    manifest = rows_of(f"path,label {tmp_path}/link/a.wav,yes {root}/b.wav,no", tmp_path / "elsewhere")
    for given in (root, tmp_path / "link"):
        assert taken(given, manifest)[0] == [("a.wav", "yes", ""), ("b.wav", "no", "")]
    assert taken(None, manifest)[0] == [("data/b.wav", "no", ""), ("link/a.wav", "yes", "")]  # of the folder above
    far = rows_of(manifest.read_text(), tmp_path / "far" / "away")
    with pytest.raises(UserError, match=rf"leaves the folder .*away; -i {tmp_path} takes it"):
        taken(None, far)
    assert taken(tmp_path, far)[0] == [("data/b.wav", "no", ""), ("link/a.wav", "yes", "")]


def test_names_relative_to_the_manifest(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "train/a.wav train/b.wav test/c.wav")
    files, notes = taken(root, rows_of("file_name,label a.wav,yes b.wav,no ../test/c.wav,no", root / "train"))
    assert [file[0] for file in files] == ["test/c.wav", "train/a.wav", "train/b.wav"]
    assert "3 relative to the manifest's folder" in notes


def test_a_file_that_one_row_names_is_not_taken_by_another(tmp_path: Path) -> None:
    root = touch(tmp_path, "a/1.wav a/2.wav")
    files, _ = taken(root, rows_of("path,label 1.wav,no a/1.wav,yes a/2.wav,no b/1.wav,no", root))
    assert files == [
        ("1.wav", "no", "line 2: no such file: the nearest, a/1.wav, is that of line 3"),
        ("a/1.wav", "yes", ""),
        ("a/2.wav", "no", ""),
        ("b/1.wav", "no", "line 5: no such file: the nearest, a/1.wav, is that of line 3"),
    ]
    touch(tmp_path, "a/3.wav a/4.wav a/5.wav")
    table = rows_of("path,label 3,no 4.wav,yes 3.WAV,yes q/a/5.wav,no a/5,no A/5.wav,no a/2.wav,no", root)
    assert sorted(reason for _, _, reason in taken(root, table)[0] if reason) == [
        "line 2: contradicts line 4 (train 'no' in line 2, train 'yes' in line 4)",
        "line 4: contradicts line 2 (train 'no' in line 2, train 'yes' in line 4)",
        "line 5: no such file: the nearest, a/5.wav, is that of line 6",
        "line 7: repeats line 6",
    ]
    touch(tmp_path / "some", "audio/fold2/1.wav audio/fold2/2.wav")  # fold1 is not there
    table = rows_of("path,label /x/audio/fold1/1.wav,no /x/audio/fold2/1.wav,yes /x/audio/fold2/2.wav,no", root)
    assert [(label, reason) for _, label, reason in taken(root / "some", table)[0]] == [
        ("no", "line 2: no such file: the nearest, audio/fold2/1.wav, is that of line 3"),
        ("yes", ""),
        ("no", ""),
    ]


def test_the_manifests_own_name_tells_the_split(tmp_path: Path) -> None:
    root = touch(tmp_path, "audio_train/1.wav audio_train/2.wav audio_test/1.wav audio_test/2.wav")
    assert [file[0] for file in taken(root, rows_of("fname,label 1,no 2,yes", root, "train.csv"))[0]] == [
        "audio_train/1.wav",
        "audio_train/2.wav",
    ]
    with pytest.raises(
        UserError, match=r"1: line 2: means 2 files \(audio_test/1.wav, audio_train/1.wav\): name its fold"
    ):
        taken(root, rows_of("fname,label 1,no 2,yes", root, "labels.csv"))
    files, _ = taken(
        root, rows_of("fname,label,split 1,no,Train 2,yes,training 1,no,TEST 2,yes,eval", root, "labels.csv")
    )
    assert [file[0] for file in files] == [
        "audio_train/1.wav",
        "audio_train/2.wav",
        "audio_test/1.wav",
        "audio_test/2.wav",
    ]


def test_unicode_forms(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "été.wav") for form in ("NFC", "NFD"))
    root = touch(tmp_path / "one", f"{decomposed} b.wav")
    manifest = rows_of(f"path,label {composed},yes b.wav,no", root)
    files, notes = taken(root, manifest)
    assert (decomposed, "yes", "") in files
    assert "1 in another Unicode form" in notes
    (root / composed).write_text("y")
    files, notes = taken(root, rows_of(f"path,label {composed},yes {decomposed},no b.wav,no", root))
    assert [file[2] for file in files] == ["", "", ""]
    assert f"differ only in their Unicode form: 1 pair ({composed!a} and {decomposed!a})" in notes


def test_rows_without_a_file_say_the_nearest_one(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "x/clip_01.wav x/clip_02.wav y/clip_03.wav y/same.wav x/same.wav")
    touch(tmp_path, "more/clip_09.wav")
    table = "path,label clip_01.wav,a clip_03.wav,b x/clip_1.wav,a same.wav,b more/clip_09.wav,b clip_44.wav,b"
    files, _ = taken(root, rows_of(table, root))
    assert {name: reason for name, _, reason in files if reason} == {
        "x/clip_1.wav": "line 4: no such file; the nearest is x/clip_01.wav",
        "same.wav": "line 5: means 2 files (x/same.wav, y/same.wav): name its folder, or give a column (fold, label, "
        "split) that does",
        "more/clip_09.wav": f"line 6: no such file below {root}; -i {tmp_path} takes it",
        "clip_44.wav": "line 7: no such file",
    }
    with pytest.raises(UserError, match=r"names no clip to train on \(x/clip_1\.wav: line 2: .*nearest is .* \| "):
        taken(root, rows_of("path,label x/clip_1.wav,a q/zz.wav,b", root))


# ---------------------------------------------------------------------------------------------------- columns


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("filename,fold,target,category,esc10,src_file,take", "path=filename, label=category, group=src_file, fold"),
        ("slice_file_name,fsID,salience,fold,classID,class", "path=slice_file_name, label=class, group=fsID, fold"),
        ("client_id,path,sentence,up_votes,locale", "path=path, label=sentence, group=client_id"),
        ("fname,label,manually_verified,freesound_id,license", "path=fname, label=label"),
        ("fname,labels", "path=fname, label=labels"),
        ("primary_label,secondary_labels,type,filename,url", "path=filename, label=primary_label"),
        ("ebird_code,channels,filename,species,title", "path=filename, label=ebird_code"),
        ("itemid,datasetid,label", "path=itemid, label=label"),
        ("fn,command", "path=fn, label=command"),
        ("Audio-FilePath,Command", "path=Audio-FilePath, label=Command"),
        ("file_name,label", "path=file_name, label=label"),
        ("recording,word,speaker", "path=recording, label=word, group=speaker"),
        ("recording,file,word", "path=file, label=word, group=recording"),
    ],
)
def test_columns_of_common_sets(tmp_path: Path, header: str, said: str) -> None:
    path = said.split(",")[0].removeprefix("path=")
    label = said.split("label=")[1].split(",")[0]
    rows = [[f"{n}.wav" if name == path else "xy"[n] if name == label else str(n) for name in header.split(",")]
            for n in range(2)]  # fmt: skip
    manifest = rows_of(" ".join([header, *map(",".join, rows)]), touch(tmp_path, "0.wav 1.wav"))
    files, notes = taken(tmp_path, manifest)
    assert files == [("0.wav", "x", ""), ("1.wav", "y", "")]
    assert f"columns of the manifest: {said}" in notes


def test_the_column_for_the_path_is_the_one_that_names_files(tmp_path: Path) -> None:
    root = touch(tmp_path, "a.wav b.wav")
    assert taken(root, rows_of("file,clip,label 17,a.wav,x 18,b.wav,y", root))[0][0] == ("a.wav", "x", "")
    (root / "m.csv").write_text("id,sound of,label\n1,a.wav,x\n2,b.wav,y\n")
    with pytest.raises(
        UserError, match=r"column 'id' names no file, but 'sound of' does: say --columns 'path=sound of"
    ):
        taken(root, root / "m.csv")
    with pytest.raises(UserError, match=r"say --columns path=NAME, likely --columns path=what"):
        taken(root, rows_of("what,label a.wav,x b.wav,y", root))
    with pytest.raises(UserError, match=r"say --columns label=NAME, likely --columns label=kind"):
        taken(root, rows_of("path,n,kind a.wav,1,x b.wav,2,y", root))


def test_columns_that_have_no_name_of_their_own_or_hold_flags(tmp_path: Path) -> None:
    root = touch(tmp_path, "a.wav b.wav c.wav")
    (root / "m.csv").write_text("clips of mine,,\na.wav,x,1\nb.wav,y,1\nc.wav,x,1\n")
    with pytest.raises(UserError, match=r"likely --columns 'path=clips of mine' label=2$"):
        taken(root, root / "m.csv")
    assert len(taken(root, root / "m.csv", columns=(("path", "1"), ("label", "2")))[0]) == 3
    with pytest.raises(UserError, match=r"say --columns label=NAME$"):
        taken(root, rows_of("path,dog,cat a.wav,1,0 b.wav,0,1 c.wav,0,1", root))


def test_columns_that_look_as_if_they_should_count(tmp_path: Path) -> None:
    root = touch(tmp_path, "a.wav b.wav")
    notes = taken(root, rows_of("path,label,weight,secondary_labels,author,x a.wav,x,1,,n,1 b.wav,y,1,,m,1", root))[1]
    assert (
        "columns of the manifest that are not used: weight, secondary_labels, author; --columns group=author" in notes
    )


def test_a_table_without_a_header(tmp_path: Path) -> None:
    root = touch(tmp_path, "a.wav b.wav c.wav")
    files, notes = taken(root, rows_of("a.wav,yes b.wav,no c,no", root))
    assert files == [("a.wav", "yes", ""), ("b.wav", "no", ""), ("c.wav", "no", "")]
    assert "no header: the first line of m.csv names a file" in notes
    assert "path=1, label=2" in notes
    assert taken(root, rows_of("yes,a no,b no,c", root))[0] == files  # names without an ending, and last
    table = rows_of("a.wav,17,yes b.wav,18,no c.wav,19,no", root)
    with pytest.raises(UserError, match=r"no header \(.*1: a\.wav, 2: 17, 3: yes\).*--columns path=1 label=3"):
        taken(root, table)
    assert taken(root, table, columns=(("path", "1"), ("label", "3")))[0] == files
    assert taken(root, table, label_pattern=r"(?P<label>[abc])\.wav")[0][0] == ("a.wav", "a", "")
    assert taken(root, rows_of("x,n,word a.wav,17,yes b.wav,18,no", root), columns=(("path", "1"),))[0] == files[:2]
    assert len(taken(root, rows_of("gone.wav,yes a.wav,yes b.wav,no", root))[0]) == 3


def test_json_lines_of_nemo(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "wav/a.wav wav/b.wav")
    lines = [{"audio_filepath": f"/their/disk/wav/{name}.wav", "duration": 1.0, "command": word} for name, word in
             (("a", "yes"), ("b", "no"))]  # fmt: skip
    manifest = root / "train_manifest.json"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    files, notes = taken(None, manifest)
    assert files == [("wav/a.wav", "yes", ""), ("wav/b.wav", "no", "")]
    assert "path=audio_filepath, label=command" in notes
