"""Files that libsndfile does not read: through PyAV, or with a reason."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

import preprocessing.audiofile
import preprocessing.decode
import preprocessing.store
from preprocessing.files import File
from system.errors import UserError
from tests.conftest import decode_folder
from tests.preparing import RATE, in_one_process, prepare, reasons, voice
from tests.test_decode import decode, part

# A file's name, FFmpeg's codec and container; the rate, Hz; how many samples are added at the ends of a second.
KINDS = [
    ("a.m4a", "aac", "ipod", RATE, 0),
    ("a.m4a", "alac", "ipod", 44_100, 0),
    ("a.mp4", "libopus", "mp4", 48_000, 0),
    ("a.3gp", "aac", "3gp", RATE, 0),
    ("a.aac", "aac", "adts", RATE, 2048),
    ("a.webm", "libopus", "webm", 48_000, 0),
    ("a.mka", "flac", "matroska", RATE, 0),
    ("a.wma", "wmav2", "asf", 44_100, 2048),
    ("a.amr", "libopencore_amrnb", "amr", 8000, 160),
    ("opus in another container.opus", "libopus", "matroska", 48_000, 0),
    ("an MP4 in disguise.wav", "aac", "mp4", RATE, 0),
    ("g722.wav", "g722", "wav", RATE, 24),
    ("flac.ogg", "flac", "ogg", RATE, 0),
]


def encode(path: Path, wave: NDArray[Any], codec: str, container: str, rate: int = RATE, **tags: str) -> Path:
    """`wave`, (frames, channels), full scale 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    layout = {1: "mono", 2: "stereo"}[wave.shape[1]]
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.T, np.float32), format="fltp", layout=layout)
    frame.sample_rate, frame.pts = rate, 0
    with av.open(path, "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 12_200 if codec == "libopencore_amrnb" else 64_000 * wave.shape[1]
        file.metadata.update(tags)
        for part in (frame, None):
            file.mux(stream.encode(part))
    return path


def second(rate: int, seed: int = 3) -> NDArray[np.float64]:
    """A second of a voice, (frames, 1); slower or faster at other rates than RATE."""
    return voice(seed, rate / RATE)[:, None] / 32768


def lag(decoded: NDArray[np.int16], wave: NDArray[np.float64]) -> int:
    """By how many samples `decoded` is late."""
    size = 2 * max(len(decoded), len(wave))
    both = np.fft.irfft(np.fft.rfft(decoded, size) * np.fft.rfft(wave[:, 0], size).conj())
    at = int(np.argmax(both))
    return at if at < size // 2 else at - size


@pytest.mark.parametrize(("name", "codec", "container", "rate", "added"), KINDS)
def test_what_ffmpeg_reads(tmp_path: Path, name: str, codec: str, container: str, rate: int, added: int) -> None:
    wave = second(rate)
    decoded = decode(encode(tmp_path / "data" / name, wave, codec, container, rate), rate, tmp_path)
    assert abs(len(decoded) - rate) <= added
    late = lag(decoded, wave)
    assert abs(late) <= added
    if not added:
        difference = decoded / 32768 - wave[:, 0]
        assert np.square(difference).mean() < 0.1 * np.square(wave).mean()
        if codec in ("alac", "flac"):
            assert np.abs(difference).max() <= 1 / 32768


def test_channels_are_averaged_and_blocks_leave_no_seams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_one_process(monkeypatch)
    left, right = second(RATE), second(RATE, 4)
    path = encode(tmp_path / "data" / "a.m4a", np.hstack([left, right]), "alac", "ipod")
    whole = decode(path, RATE, tmp_path)
    assert np.abs(whole / 32768 - (left + right)[:, 0] / 2).max() <= 1 / 32768
    slower = decode(path, 8000, tmp_path / "slower")
    monkeypatch.setattr(preprocessing.decode, "BLOCK_VALUES", 700)
    assert np.array_equal(decode(path, RATE, tmp_path / "again"), whole)
    assert np.abs(decode(path, 8000, tmp_path / "slower again") - slower.astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("name", "codec", "container", "rate"),
    [
        ("a.m4a", "aac", "ipod", RATE),
        ("a.m4a", "alac", "ipod", RATE),
        ("a.mp4", "libopus", "mp4", 48_000),
        ("a.webm", "libopus", "webm", 48_000),  # its times are rounded: it is read from its beginning
        ("a.aac", "aac", "adts", RATE),
    ],
)
def test_a_part_through_ffmpeg(tmp_path: Path, name: str, codec: str, container: str, rate: int) -> None:
    path = encode(tmp_path / name, np.concatenate([second(rate, n) for n in range(4)]), codec, container, rate)
    whole = decode(path, rate, tmp_path)
    times = [(0.25, 0.75), (1.5, 3.0), (2.75, 3.125), (3.5, 4.05), (0.5, 3.9), (3.5, 4.5)]
    audios, _ = preprocessing.decode.decode_files([part(path, *t) for t in times], rate, tmp_path / "parts.i16")
    samples = np.fromfile(tmp_path / "parts.i16", "<i2")
    for (start, end), audio in zip(times[:5], audios[:5], strict=True):
        expected = whole[round(start * rate) : round(end * rate)]
        assert np.array_equal(samples[audio.offset : audio.offset + audio.length], expected)
    assert audios[5].reason.startswith("lies beyond its recording's end: 3.5 to 4.5 s, and that is at 4.")


def test_tags_in_any_encoding(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mka", second(RATE), "flac", "matroska", title="Vogel")
    whole = decode(path, RATE, tmp_path)
    content = path.read_bytes()
    assert b"Vogel" in content
    path.write_bytes(content.replace(b"Vogel", b"V\xf6gel"))  # Latin 1
    assert np.array_equal(decode(path, RATE, tmp_path / "again"), whole)


def test_a_data_set_of_such_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    for n in range(6):
        encode(root / "yes" / f"{n}.m4a", second(44_100, n), "aac", "ipod", 44_100)
        encode(root / "no" / f"{n}.webm", second(48_000, 10 + n), "libopus", "webm", 48_000)
    encode(root / "no" / "more.webm", second(48_000, 20), "libopus", "webm", 48_000)
    (root / "no" / "text.m4a").write_text("not found")
    video = root / "no" / "no sound.mp4"
    with av.open(video, "w") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        file.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        file.mux(stream.encode(None))
    clips = prepare(root, tmp_path / "work", folds=2)
    assert preprocessing.store.load_store(tmp_path / "work")["sample_rate"] == 48_000
    assert clips["sample_rate"].value_counts().to_dict() == {48_000: 7, 44_100: 6}
    assert (clips["length"] == 48_000).all()
    assert reasons(tmp_path / "work") == {
        "no/no sound.mp4": "holds no sound",
        "no/text.m4a": "unreadable: Format not recognised",
    }
    paths = [str(root / name) for name in ("yes/0.m4a", "no/0.webm", "no/text.m4a")]
    assert preprocessing.decode.durations(paths) == pytest.approx([1.0, 1.0, np.nan], abs=0.02, nan_ok=True)


def test_damaged_files_have_a_reason_or_a_flag(tmp_path: Path) -> None:
    folder, draw = tmp_path / "data", np.random.default_rng(0)
    for name, codec, container, rate, _ in KINDS:
        content = encode(tmp_path / name, second(rate), codec, container, rate).read_bytes()
        for cut in (8, 20, len(content) // 2, len(content) - 10):
            path = folder / f"{codec} {container} to {cut} {name}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content[:cut])
        for n in range(8):
            damaged = bytearray(content)
            for at in draw.integers(0, len(content) if n % 2 else 400, 10):
                damaged[at % len(content)] = draw.integers(256)
            (folder / f"{codec} {container} damaged {n} {name}").write_bytes(damaged)
    clips, rejected = decode_folder(folder, RATE, tmp_path / "into")
    assert len(clips) + len(rejected) == 12 * len(KINDS)
    assert not rejected["reason"].str.contains("decoder (?:crashes|hangs)", regex=True).any(), rejected.to_string()
    assert rejected["reason"].str.len().between(5, 200).all()
    cut = rejected[rejected["fname"].str.contains(" to 8 ")]
    assert len(cut) == len(KINDS)


def test_a_truncated_file_is_flagged(tmp_path: Path) -> None:
    content = encode(tmp_path / "a.mka", second(RATE), "pcm_s16le", "matroska").read_bytes()
    (tmp_path / "b.mka").write_bytes(content[: len(content) // 2])
    file = File("train", "b", 0, 0, "", str(tmp_path / "b.mka"))
    [audio], _ = preprocessing.decode.decode_files([file], RATE, tmp_path / "waves.i16")
    assert audio.reason or audio.truncated == 1


def test_without_pyav_the_way_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_one_process(monkeypatch)
    root = tmp_path / "data"
    for n in range(4):
        for label in ("no", "yes"):
            encode(root / label / f"{n} a.m4a", second(RATE, n), "aac", "ipod")
    monkeypatch.setitem(sys.modules, "av", None)  # importing it fails
    hint = "m4a is not read without PyAV: pip install av, or convert: ffmpeg -i '0 a.m4a' '0 a.wav'"
    with pytest.raises(UserError, match="none of the 8 clips can be read") as error:
        prepare(root, tmp_path / "work")
    assert hint in str(error.value)
    for n in range(4):
        for label in ("no", "yes"):
            path = root / label / f"{n} a.m4a"
            path.rename(path.with_name(f"{n}.wav"))
    (root / "no" / "0.wav").rename(root / "no" / "0.opus")
    (root / "no" / "1.wav").rename(root / "no" / "1.AAC")
    (root / "no" / "2.wav").write_bytes(b"RIFF")
    (root / "no" / "text.m4a").write_text("PyAV would be no help")
    _, rejected = decode_folder(root / "no", RATE, tmp_path / "into")
    assert dict(rejected.to_numpy()) == {
        "0.opus": "mp4 is not read without PyAV: pip install av, or convert: ffmpeg -i 0.opus 0.wav",
        "1.AAC": "aac is not read without PyAV: pip install av, or convert: ffmpeg -i 1.AAC 1.wav",
        "2.wav": "unreadable: Format not recognised",
        "text.m4a": "unreadable: Format not recognised",
        "3.wav": "mp4 is not read without PyAV: pip install av, or convert: ffmpeg -i 3.wav 3.flac",
    }


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("mov", "aac"), ("matroska", "libopus")])
def test_sound_that_ends_before_the_pictures_is_whole(tmp_path: Path, container: str, codec: str) -> None:
    path, wave = tmp_path / "a.mkv", second(48_000).T.astype(np.float32)
    with av.open(path, "w", format=container) as file:
        pictures: Any = file.add_stream("mpeg4", rate=10)
        sound: Any = file.add_stream(codec, rate=48_000, layout="mono")
        pictures.width = pictures.height = 64
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 0
        for part in (frame, None):
            file.mux(sound.encode(part))
        for picture in (*(av.VideoFrame(64, 64, "yuv420p") for _ in range(20)), None):  # two seconds
            file.mux(pictures.encode(picture))
    source = File("train", "a", 0, 0, "", str(path))
    [audio], _ = preprocessing.decode.decode_files([source], 48_000, tmp_path / "waves.i16")
    assert (audio.length, audio.truncated) == (48_000, 0)
    known = container != "matroska"  # its header tells the length of all alone
    assert preprocessing.decode.durations([str(path)]) == pytest.approx([1.0 if known else np.nan], nan_ok=True)


def test_what_stands_before_a_colon_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(tmp_path / "a.m4a", second(RATE), "alac", "ipod").rename(tmp_path / "at-12:30.m4a")
    monkeypatch.chdir(tmp_path)
    assert preprocessing.decode.durations(["at-12:30.m4a"]) == [1.0]


def test_no_file_leads_to_another(tmp_path: Path) -> None:
    """A playlist, which FFmpeg would follow, is no audio file whatever it is called."""
    encode(tmp_path / "beside" / "a.m4a", second(RATE), "aac", "ipod")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "list.m4a").write_text("#EXTM3U\n#EXTINF:1,\n../beside/a.m4a\n")
    (tmp_path / "data" / "list.webm").write_text("ffconcat version 1.0\nfile ../beside/a.m4a\n")
    _, rejected = decode_folder(tmp_path / "data", RATE, tmp_path / "into")
    assert set(rejected["reason"]) == {"unreadable: Format not recognised"}
