"""Bad and odd input, kind by kind, and what must happen to each: nothing crashes, nothing is lost without a reason."""

import csv
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

import preprocess
import preprocessing.pipeline
import preprocessing.store
import system.paths
from arg import PreprocessConfig
from system.errors import UserError

RATE = 16_000
SAMPLES = 8000


def noise(seed: int, samples: int = SAMPLES) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-0.3, 0.3, samples)


def regular(seed: int) -> NDArray[np.int16]:
    """Integers, which every lossless container keeps as they are."""
    return (32768 * noise(seed)).astype(np.int16)


def encoded(path: Path, wave: NDArray[Any], rate: int = RATE, **options: str) -> bytes:
    """What soundfile writes, whatever the suffix of `path`."""
    options = {"format": path.suffix[1:], **options}
    beside = path.with_name("encoded")
    soundfile.write(beside, wave, rate, **options)
    content = beside.read_bytes()
    beside.unlink()
    return content


# ------------------------------------------------------------------------------------------------- kinds of files

Make = Callable[[Path], object]


class Kind(NamedTuple):
    """A file under its name, how to make it, and what must happen: kept with these flags, or left out with a reason."""

    name: str
    make: Make
    flags: str | None = ""
    reason: str = ""
    length: int | None = None


def sound(
    *change: Any, rate: int = RATE, cut: float = 1.0, tail: bytes = b"", head: bytes = b"", **options: str
) -> Make:
    """Write noise, or what `change` makes of it, then keep the share `cut` of the bytes and add others."""

    def make(path: Path) -> None:
        wave = noise(seed_of(path))
        content = encoded(path, change[0](wave) if change else wave, rate, **options)
        path.write_bytes(head + content[: round(cut * len(content))] + tail)

    return make


def seed_of(path: Path) -> int:
    return 20_000 + zlib.crc32(os.fsencode(path.name))


def content(data: bytes) -> Make:
    return lambda path: path.write_bytes(data)


def link(target: str) -> Make:
    return lambda path: path.symlink_to(target)


def patched(offset: int, data: bytes) -> Make:
    """A WAV some bytes of which are others."""

    def make(path: Path) -> None:
        wave = bytearray(encoded(path, noise(seed_of(path)), subtype="PCM_16"))
        wave[offset : offset + len(data)] = data
        path.write_bytes(wave)

    return make


def with_value(value: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def change(wave: NDArray[Any]) -> NDArray[Any]:
        wave[100] = value
        return wave

    return change


def shifted(path: Path) -> None:
    """A regular clip of the class no, 50 ms later and 6 dB softer."""
    path.write_bytes(encoded(path, 0.5 * np.roll(noise(1), 800)))


def locked(path: Path) -> None:
    sound()(path)
    path.chmod(0)


UNREADABLE, NO_FILE, BAD_NAME = "unreadable: Format not recognised", "not a file", "its name holds a control character"
KINDS = [
    Kind("yes/zero bytes.wav", content(b""), None, UNREADABLE),
    Kind("yes/text.wav", content(b"version https://git-lfs.github.com/spec/v1"), None, UNREADABLE),
    Kind("yes/page.mp3", content(b"<!DOCTYPE html><html>404</html>"), None, "unreadable"),
    Kind("yes/header cut.wav", sound(cut=0.001), None, "unreadable"),
    Kind("yes/header alone.wav", lambda path: path.write_bytes(encoded(path, noise(3))[:44]), None, "empty"),
    Kind("yes/no samples.flac", sound(lambda wave: wave[:0]), None, "unreadable"),
    Kind("yes/data cut.wav", sound(cut=0.6), "truncated"),
    Kind("yes/data cut.aiff", sound(cut=0.6), "truncated"),
    Kind("yes/data cut.flac", sound(cut=0.5), None, "unreadable: flac decoder lost sync"),
    Kind("yes/data cut.opus", sound(cut=0.5, format="OGG", subtype="OPUS"), None, "unreadable"),
    Kind("yes/data cut.ogg", sound(cut=0.5), None, "unreadable"),
    Kind("yes/tail cut.mp3", sound(cut=0.7), "truncated"),
    Kind("yes/tail broken.mp3", sound(cut=0.5, tail=b"\xff\x00\x12" * 1000), None, "unreadable"),
    Kind("yes/id3 tag.mp3", sound(head=b"ID3\x03\x00\x00\x00\x00\x0f\x00" + bytes(1920))),
    Kind("yes/more behind.wav", sound(tail=b"junk" * 50), length=SAMPLES),
    Kind("yes/from a pipe.wav", patched(40, b"\xff\xff\xff\xff"), length=SAMPLES),
    Kind("yes/rate of 1 Hz.wav", patched(24, struct.pack("<I", 1)), None, "its sample rate is 1 Hz"),
    Kind("yes/no rate.wav", patched(24, struct.pack("<I", 0)), None, "unreadable"),
    Kind("yes/no channels.wav", patched(22, b"\0\0"), None, "unreadable"),
    Kind("yes/nan.wav", sound(with_value(np.nan), subtype="FLOAT"), None, "holds NaN"),
    Kind("yes/infinite.wav", sound(with_value(-np.inf), subtype="DOUBLE"), None, "holds NaN or infinite"),
    Kind("yes/over full scale.wav", sound(lambda wave: 9 * wave, subtype="FLOAT"), None, "float samples beyond"),
    Kind("yes/full scale.wav", sound(lambda wave: np.clip(9 * wave, -1, 1)), "clipped"),
    Kind("yes/one sample.wav", sound(lambda wave: wave[:1] + 0.5), "silent dc short", length=1),
    Kind("yes/long.flac", sound(lambda wave: np.tile(wave, 60) + noise(7, 60 * SAMPLES)), "long", length=60 * SAMPLES),
    Kind("yes/silence.wav", sound(lambda wave: 0 * wave[:7000]), "silent"),
    Kind("yes/opposite phases.wav", sound(lambda wave: np.stack([wave, -wave], 1), subtype="FLOAT"), "silent"),
    Kind("yes/offset.wav", sound(lambda wave: wave + 0.2), "dc"),
    Kind("yes/8 bit.wav", sound(subtype="PCM_U8"), length=SAMPLES),
    Kind("yes/24 bit.wav", sound(subtype="PCM_24"), length=SAMPLES),
    Kind("yes/32 bit.wav", sound(subtype="PCM_32"), length=SAMPLES),
    Kind("yes/double.wav", sound(subtype="DOUBLE"), length=SAMPLES),
    Kind("yes/mu-law.wav", sound(subtype="ULAW"), length=SAMPLES),
    Kind("yes/ima adpcm.wav", sound(subtype="IMA_ADPCM")),
    Kind("yes/ms adpcm.wav", sound(subtype="MS_ADPCM")),
    Kind("yes/extensible.wav", sound(format="WAVEX", subtype="PCM_24"), length=SAMPLES),
    Kind("yes/rf64.wav", sound(format="RF64"), length=SAMPLES),
    Kind("yes/w64.w64", sound(), length=SAMPLES),
    Kind("yes/vorbis.oga", sound(format="OGG"), length=SAMPLES),
    Kind("yes/opus.opus", sound(format="OGG", subtype="OPUS"), length=SAMPLES),
    Kind("yes/7 channels.wav", sound(lambda wave: np.stack([wave] * 7, 1)), length=SAMPLES),
    Kind("yes/300 channels.wav", sound(lambda wave: np.stack([wave] * 300, 1)), length=SAMPLES),
    Kind("yes/8000 Hz.wav", sound(lambda wave: wave[::2], rate=8000), "resampled", length=SAMPLES),
    Kind("yes/11025 Hz.wav", sound(rate=11_025), "resampled", length=round(SAMPLES * RATE / 11_025)),
    Kind("yes/192 kHz.flac", sound(lambda wave: np.repeat(wave, 12), rate=192_000), "resampled", length=SAMPLES),
    Kind("yes/wav.mp3", sound(format="WAV"), length=SAMPLES),
    Kind("yes/flac.wav", sound(format="FLAC"), length=SAMPLES),
    Kind("yes/mp3.wav", sound(format="MP3")),
    Kind("yes/film.m4a", content(b"\0\0\0\x20ftypM4A "), None, "unreadable"),
    Kind("yes/BIG.WAV", sound(format="WAV"), length=SAMPLES),
    Kind("yes/dangling.wav", link("nowhere.wav"), None, NO_FILE),
    Kind("yes/circle.wav", link("circle.wav"), None, NO_FILE),
    Kind("yes/pipe.wav", os.mkfifo, None, NO_FILE),
    Kind("yes/linked.wav", lambda path: link("../../elsewhere.wav")(path)),
    Kind("yes/two\nlines.wav", sound(), None, BAD_NAME),
    Kind("yes/tab\t.wav", sound(), None, BAD_NAME),
    Kind("yes/bytes\udcff.wav", sound(), None, BAD_NAME),
    Kind('yes/"quoted", and; more.wav', sound(), length=SAMPLES),
    Kind("yes/ spaced .wav", sound(), length=SAMPLES),
    Kind("yes/-rf.wav", sound(), length=SAMPLES),
    Kind("yes/=cmd|.wav", sound(), length=SAMPLES),
    Kind("yes/Stra\u00dfe \u4e2d\u6587 \U0001f600.wav", sound(), length=SAMPLES),
    Kind("yes/caf\u00e9.wav", sound(), length=SAMPLES),
    Kind("yes/cafe\u0301.wav", sound(), length=SAMPLES),  # another file: an accent for itself
    Kind("yes/" + "x" * 250 + ".wav", lambda path: path.write_bytes(encoded(path.with_name("x.wav"), noise(11_000)))),
    Kind("yes/folder.wav/inside.wav", sound(), length=SAMPLES),  # the folder is named like a file
    Kind("yes/0.wav", sound(), length=SAMPLES),  # as no/0.wav is called
    Kind(
        "yes/a copy.flac", lambda path: path.write_bytes(encoded(path, regular(10_001))), None, "duplicate of yes/1.wav"
    ),
    Kind("yes/also no.wav", lambda path: path.write_bytes(encoded(path, noise(8))), None, "labelled no"),
    Kind("no/also yes.wav", lambda path: path.write_bytes(encoded(path, noise(8))), None, "labelled yes"),
    Kind("no/nearly 1.wav", shifted, "near-duplicate"),
    Kind("loose.wav", sound(), None, "lies in no class folder"),
    Kind("yes/locked.wav", locked, None, "unreadable: "),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, str]]:
    """The work folder of one data set with every kind of file in it, its clips and its rejected files by name."""
    folder = tmp_path_factory.mktemp("odd")
    root = folder / "data"
    for label, base in (("no", 0), ("yes", 10_000)):
        (root / label).mkdir(parents=True)
        for n in range(20):
            path = root / label / f"{n}.wav"
            path.write_bytes(encoded(path, regular(base + n)))
    soundfile.write(folder / "elsewhere.wav", noise(99), RATE)
    for kind in KINDS:
        path = root / kind.name
        path.parent.mkdir(exist_ok=True)
        kind.make(path)
    (root / "yes" / "loop").symlink_to(root)  # a folder in itself
    (root / "yes" / "._0.wav").write_bytes(b"a Macintosh leaves these behind")
    work = folder / "work"
    preprocessing.pipeline.preprocess(PreprocessConfig(root, work))
    clips, rejected = preprocessing.store.load_clips(work), preprocessing.store.load_rejected(work)
    by_name = {clip.fname: clip for clip in clips.itertuples()}
    return work, by_name, dict(zip(rejected["fname"], rejected["reason"], strict=True))


def shown(name: str) -> str:
    return "".join("\N{REPLACEMENT CHARACTER}" if c < " " or "\ud800" <= c <= "\udfff" else c for c in name)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: ascii(kind.name[:40]))
def test_a_file(kind: Kind, prepared: tuple[Path, dict[str, Any], dict[str, str]]) -> None:
    work, clips, rejected = prepared
    name = shown(kind.name)
    if name.endswith("locked.wav") and os.geteuid() == 0:
        assert name in clips  # nothing is locked for root
        return
    assert (name in clips) + (name in rejected) == 1
    if kind.flags is None:
        assert kind.reason in rejected[name]
        return
    assert name in clips, rejected
    clip = clips[name]
    assert set(clip.flags.split()) >= set(kind.flags.split())
    assert clip.flags.replace("resampled", "").strip() == kind.flags.replace("resampled", "").strip()
    wave = np.fromfile(work / system.paths.WAVES, "<i2")[clip.offset : clip.offset + clip.length]
    assert len(wave) == clip.length >= 1
    assert kind.length in (None, clip.length)


def test_every_file_is_accounted_for(prepared: tuple[Path, dict[str, Any], dict[str, str]]) -> None:
    _, clips, rejected = prepared
    assert set(clips) | set(rejected) == (
        {shown(kind.name) for kind in KINDS} | {f"{label}/{n}.wav" for label in ("no", "yes") for n in range(20)}
    )
    assert clips["no/1.wav"].cluster == clips["no/nearly 1.wav"].cluster == "no/1.wav"


def test_strict_fails_at_the_first_and_replaces_nothing(tmp_path: Path) -> None:
    root, work = tmp_path / "data", tmp_path / "work"
    for label, base in (("no", 0), ("yes", 10)):
        (root / label).mkdir(parents=True)
        for n in range(5):
            soundfile.write(root / label / f"{n}.wav", noise(base + n), RATE)
    config = PreprocessConfig(root, work, strict=True)
    preprocessing.pipeline.preprocess(config)  # nothing odd about it
    before = {path.name: path.read_bytes() for path in work.iterdir() if path.name != system.paths.WAVES}
    soundfile.write(root / "yes" / "silent.wav", np.zeros(SAMPLES), RATE)
    with pytest.raises(UserError, match=r"^yes/silent.wav: silent \(0 files would be left out, 1 clips flagged"):
        preprocessing.pipeline.preprocess(config)
    (root / "no" / "bad.wav").write_bytes(b"")
    with pytest.raises(UserError, match=r"^no/bad.wav: unreadable.* \(1 files would be left out, 1 clips flagged"):
        preprocessing.pipeline.preprocess(config)
    assert before.items() <= {path.name: path.read_bytes() for path in work.iterdir()}.items()
    (root / "no" / "bad.wav").unlink()
    (root / "yes" / "silent.wav").unlink()
    preprocessing.pipeline.preprocess(config)


# --------------------------------------------------------------------------------------------- kinds of manifests

Row = tuple[str, ...]
ROWS: list[tuple[Row, str, str]] = [  # (path, label, split), the name in the tables, and the label or the reason
    (("clips/a 0.wav", "007", "train"), "clips/a 0.wav", "007"),
    (("clips/a 1.wav", "1e5", ""), "clips/a 1.wav", "1e5"),
    (("clips/a 2.wav", "2024-01-02", "training"), "clips/a 2.wav", "2024-01-02"),
    (("./clips/../clips/a 3.wav", "NA", "train"), "clips/a 3.wav", "NA"),
    (("clips\\a 4.wav", "true", "train"), "clips/a 4.wav", "true"),
    (("clips/a 5.wav", ' "quoted", x ', "dev"), "clips/a 5.wav", '"quoted", x'),
    (("clips/a 6.wav", "007", "TEST"), "clips/a 6.wav", "007"),
    (("clips/a 7.wav", "", "test"), "clips/a 7.wav", ""),
    (("clips/a 8.wav", "no class of training", "test"), "clips/a 8.wav", ""),
    (("clips/a 9.wav", "", "noise"), "clips/a 9.wav", ""),
    (("clips/gone.wav", "007", "train"), "clips/gone.wav", "line 12: no such file"),
    (("clips/a 10.wav", "", "train"), "clips/a 10.wav", "line 13: no label"),
    (("clips/a 11.wav", "   ", "train"), "clips/a 11.wav", "line 14: no label"),
    (("../outside.wav", "007", "train"), "../outside.wav", "line 15: leaves the folder"),
    (("/etc/hostname", "007", "train"), "/etc/hostname", "line 16: leaves the folder"),
    (("clips/../../outside.wav", "007", "train"), "clips/../../outside.wav", "line 17: leaves the folder"),
    (("", "007", "train"), "(line 18)", "line 18: names no file"),
    (("clips/a 12.wav", "007", "nowhere"), "clips/a 12.wav", "line 19: split 'nowhere' is none of"),
    (("clips/a 13.wav", "007"), "clips/a 13.wav", "line 20: 2 fields where the header has 3"),
    (("clips/a 14.wav", "007", "train", "x"), "clips/a 14.wav", "line 21: 4 fields where the header has 3"),
    (("clips/a 15.wav", "007", "train"), "clips/a 15.wav", "line 22: contradicts line 23"),
    (("clips/a 15.wav", "1e5", "train"), "clips/a 15.wav", "line 23: contradicts line 22"),
    (("clips/a 16.wav", "007", "train"), "clips/a 16.wav", "line 24: contradicts line 25"),
    (("clips/a 16.wav", "007", "test"), "clips/a 16.wav", "line 25: contradicts line 24"),
    (("clips", "007", "train"), "clips", "not a file"),
    (("clips/text.wav", "007", "train"), "clips/text.wav", "unreadable"),
    (("clips/a 17.wav", "Stra\u00dfe", "train"), "clips/a 17.wav", "Stra\u00dfe"),
    (("clips/\0.wav", "007", "train"), "clips/\N{REPLACEMENT CHARACTER}.wav", "no such file"),
    (("./clips/a 0.wav", "007", "train"), "clips/a 0.wav", "line 30: repeats line 2"),
]


def write_clips(folder: Path, count: int = 18) -> None:
    folder.mkdir(parents=True)
    for n in range(count):
        soundfile.write(folder / f"a {n}.wav", noise(n), RATE)


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """(fname, label) of the clips and (fname, reason) of the rejected rows of a manifest with every kind of row."""
    folder = tmp_path_factory.mktemp("listed")
    write_clips(folder / "data" / "clips")
    (folder / "data" / "clips" / "text.wav").write_text("text")
    soundfile.write(folder / "outside.wav", noise(100), RATE)
    manifest = folder / "data" / "all.csv"
    with manifest.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([("Filename", "Label", "split"), *(row for row, *_ in ROWS)])
    preprocessing.pipeline.preprocess(PreprocessConfig(manifest.parent, folder / "work", manifest=manifest))
    clips, rejected = (
        preprocessing.store.load_clips(folder / "work"),
        preprocessing.store.load_rejected(folder / "work"),
    )
    return (
        set(zip(clips["fname"], clips["label"], strict=True)),
        set(zip(rejected["fname"], rejected["reason"], strict=True)),
    )


@pytest.mark.parametrize(("row", "name", "expected"), ROWS, ids=lambda value: ascii(value[:3]))
def test_a_row(row: Row, name: str, expected: str, listed: tuple[set[tuple[str, str]], set[tuple[str, str]]]) -> None:
    clips, rejected = listed
    assert (name, expected) in clips or any(n == name and expected in reason for n, reason in rejected)


def test_every_row_is_accounted_for(listed: tuple[set[tuple[str, str]], set[tuple[str, str]]]) -> None:
    assert sum(map(len, listed)) == len(ROWS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty; give a CSV with a header"),
        ("\n\n", "empty"),
        ("path,label\n", "names no clip to train on"),
        ("name,label\nclips/a 0.wav,x\n", "which column is the path. It has name, label; say --columns path=NAME"),
        ("path,what\nclips/a 0.wav,x\n", "which column is the label"),
        ("path,label\nclips/a 0.wav,x\nclips/a 1.wav,x\n", "the only class is 'x'"),
        ("path,label\nclips/b 0.wav,x\n", "names no clip to train on .clips/b 0.wav: line 2: no such file"),
        ('path,label\n"clips/a 0.wav,x\nclips/a 1.wav,y\n', "cannot be read .unexpected end of data"),
        ("path,label,fold\nclips/a 0.wav,x,3\nclips/a 1.wav,y,3\n", "all its clips in fold 3"),
        (b"path,label\nclips/a 0.wav,caf\xe9\n", "give a CSV in UTF-8"),
    ],
)
def test_a_manifest_that_cannot_be_used(tmp_path: Path, text: str | bytes, message: str) -> None:
    write_clips(tmp_path / "clips", 2)
    manifest = tmp_path / "all.csv"
    manifest.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=rf"all\.csv: .*{message}|the manifest has {message}"):
        preprocessing.pipeline.preprocess(PreprocessConfig(tmp_path, tmp_path / "work", manifest=manifest))


@pytest.mark.parametrize(
    ("given", "folds"),
    [
        ("0 1 2 0 1 2", [0, 1, 2, 0, 1, 2]),
        ("1 2 3 1 2 3", [0, 1, 2, 0, 1, 2]),
        ("1 10 5 1 10 5", [0, 2, 1, 0, 2, 1]),  # gaps; in the order of the numbers
        ("1.0 2.0 1.0 2.0 1.0 2.0", [0, 1, 0, 1, 0, 1]),
        ("b a b a b a", [1, 0, 1, 0, 1, 0]),
        ("0 1 2 0 1 -", [0, 1, 2, 0, 1, 2]),  # one without a fold joins the smallest
    ],
)
def test_folds_of_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, folds: list[int]) -> None:
    write_clips(tmp_path / "clips", 6)
    rows = [f"clips/a {n}.wav\t{'xy'[n // 3]}\t{fold.strip('-')}" for n, fold in enumerate(given.split())]
    manifest = tmp_path / "all.tsv"
    manifest.write_text("\n".join(["file\tword\tfold", *rows]))
    preprocessing.pipeline.preprocess(PreprocessConfig(tmp_path, tmp_path / "work", manifest=manifest))
    assert preprocessing.store.load_clips(tmp_path / "work")["fold"].tolist() == folds
    assert preprocessing.store.load_store(tmp_path / "work")["folds"] == len(set(folds))
    assert (", as given, are 0 to" in capsys.readouterr().out) == (given[0] != "0")


def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clips(tmp_path / "data" / "x", 3)
    shutil.copytree(tmp_path / "data" / "x", tmp_path / "data" / "y")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert preprocess.main(["-i", str(tmp_path / "data"), "-w", str(tmp_path / "work")]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'work'} cannot be written (No space left on device): make room, or make it writable, and "
        "run this again; what is done is kept\n"
    )
