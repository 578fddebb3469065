"""Published data sets, each as a small folder of its very layout, and the command that docs/data.md gives for it."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import preprocess
import preprocessing.store
from tests.preparing import noise, touch, write


class Expected(NamedTuple):
    """What a store must say."""

    train: dict[str, str]  # the labels by the names of the clips
    test: dict[str, str] = {}  # noqa: RUF012 (never changed)
    groups: Sequence[str] = ()  # of the training clips, in the order of their names; () for none
    folds: Sequence[int] = ()  # likewise, where the data set has some
    noise: int = 0
    said: Sequence[str] = ()  # in the output


def wavs(root: Path, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        write(root / name, number)


def rows(path: Path, header: str, cells: Sequence[Sequence[Any]], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header.split(","), *cells])


def speech_commands(root: Path) -> Expected:
    speakers = ("0a7c2a8d", "5f01c2b1", "c1d39ce8")
    names = [f"{word}/{who}_nohash_{n}.wav" for word in ("no", "yes") for who in speakers for n in range(2)]
    wavs(root, [*names, "_background_noise_/white_noise.wav"])
    (root / "testing_list.txt").write_text("\n".join(name for name in names if "c1d3" in name) + "\n")
    (root / "validation_list.txt").write_text("\n".join(name for name in names if "5f01" in name) + "\n")
    touch(root, "README.md LICENSE _background_noise_/README.md")
    labels = {name: name.split("/")[0] for name in names}
    return Expected(
        {name: label for name, label in labels.items() if "c1d3" not in name},
        {name: label for name, label in labels.items() if "c1d3" in name},
        ["0a7c2a8d", "0a7c2a8d", "5f01c2b1", "5f01c2b1"] * 2,
        noise=1,
        said=["validation_list.txt: its 4 clips stay in training"],
    )


def speech_challenge(root: Path) -> Expected:
    names = [f"train/audio/{word}/{n}c2a8d{n}_nohash_0.wav" for word in ("bed", "no", "yes") for n in range(2)]
    wavs(root, [*names, "test/audio/clip_000044442.wav", "test/audio/clip_0000adecb.wav"])
    write(root / "train" / "audio" / "_background_noise_" / "pink_noise.wav", noise(99, 16000))
    (root / "train" / "testing_list.txt").write_text("bed/0c2a8d0_nohash_0.wav\n")
    touch(root / "train", "LICENSE README.md validation_list.txt")
    clips = [["clip_000044442.wav", "silence"], ["clip_0000adecb.wav", "silence"]]
    rows(root / "sample_submission.csv", "fname,label", clips)
    return Expected(
        {name: "unknown" if "bed" in name else name.split("/")[2] for name in names},
        {"clip_000044442.wav": "", "clip_0000adecb.wav": ""},
        ["0c2a8d0", "1c2a8d1"] * 3,
        noise=1,
    )


def esc50(root: Path) -> Expected:
    clips = [(f"{fold}-10003{source}-A-{target}.wav", fold, target, ("dog", "rooster")[target], f"10003{source}")
             for fold, source in ((1, 2), (2, 3), (3, 4)) for target in (0, 1)]  # fmt: skip
    wavs(root / "audio", [clip[0] for clip in clips])
    table = [(*clip[:4], "True", clip[4], "A") for clip in clips]
    rows(root / "meta" / "esc50.csv", "filename,fold,target,category,esc10,src_file,take", table)
    touch(root, "README.md LICENSE esc50.gif meta/esc50-human.xlsx requirements.txt")
    by_name = sorted(clips)
    return Expected(
        {f"audio/{clip[0]}": clip[3] for clip in clips},
        groups=[clip[4] for clip in by_name],
        folds=[clip[1] - 1 for clip in by_name],
        said=["label=category, group=src_file, fold=fold"],
    )


def urbansound8k(root: Path) -> Expected:
    clips = []
    for n in range(6):
        fold, target, start = (1, 2, 10)[n // 2], n % 2, 58.8 * n
        name = f"10003{n}-{target}-0-0.wav"
        clips.append((name, 10030 + n, start, start + 0.1, 1, fold, target, ("dog_bark", "siren")[target]))
    wavs(root / "audio", [f"fold{clip[5]}/{clip[0]}" for clip in clips])
    rows(root / "metadata" / "UrbanSound8K.csv", "slice_file_name,fsID,start,end,salience,fold,classID,class", clips)
    touch(root, "UrbanSound8K_README.txt audio/fold1/.DS_Store FREESOUNDCREDITS.txt")
    by_name = sorted(clips, key=lambda clip: f"fold{clip[5]}/{clip[0]}")
    return Expected(
        {f"audio/fold{clip[5]}/{clip[0]}": clip[7] for clip in clips},
        groups=[str(clip[1]) for clip in by_name],
        folds=[{1: 0, 2: 1, 10: 2}[clip[5]] for clip in by_name],
        said=["label=class, group=fsID, fold=fold", "times of the manifest (start=start, end=end) are not obeyed",
              "6 without their folder"],
    )  # fmt: skip


def fsdkaggle2018(root: Path) -> Expected:
    names = [f"FSDKaggle2018.audio_train/00{n}53f0d.wav" for n in range(4)]
    wavs(root, [*names, "FSDKaggle2018.audio_test/00326aa9.wav"])
    table = [(name.split("/")[1], ("Hi-hat", "Saxophone")[n % 2], n % 2, 7 + n, "CC0") for n, name in enumerate(names)]
    header = "fname,label,manually_verified,freesound_id,license"
    rows(root / "FSDKaggle2018.meta" / "train_post_competition.csv", header, table)
    touch(root, "FSDKaggle2018.doc/README.md FSDKaggle2018.doc/LICENSE-DATASET")
    return Expected({name: ("Hi-hat", "Saxophone")[n % 2] for n, name in enumerate(names)})


def fsdkaggle2018_of_the_competition(root: Path) -> Expected:
    names = [f"audio_train/00{n}53f0d.wav" for n in range(4)]
    wavs(root, [*names, "audio_test/00326aa9.wav"])
    table = [(name.split("/")[1], ("Hi-hat", "Saxophone")[n % 2], n % 2) for n, name in enumerate(names)]
    rows(root / "train.csv", "fname,label,manually_verified", table)
    rows(root / "sample_submission.csv", "fname,label", [("00326aa9.wav", "Hi-hat Saxophone")])
    labels = {name: ("Hi-hat", "Saxophone")[n % 2] for n, name in enumerate(names)}
    return Expected(labels, {"audio_test/00326aa9.wav": ""})


def fsdkaggle2019(root: Path) -> Expected:
    wavs(root, [f"train_curated/0{n}06fdb7.wav" for n in range(5)] + ["train_noisy/00097e21.wav", "test/0026f116.wav"])
    labels = ["Bark", "Raindrop", "Bark", "Raindrop", "Bark,Raindrop"]
    rows(root / "train_curated.csv", "fname,labels", [(f"0{n}06fdb7.wav", label) for n, label in enumerate(labels)])
    rows(root / "train_noisy.csv", "fname,labels", [("00097e21.wav", "Bark,Raindrop")])
    return Expected({f"train_curated/0{n}06fdb7.wav": labels[n] for n in range(4)})


def common_voice(root: Path) -> Expected:
    for n in range(6):
        write(root / "en" / "clips" / f"common_voice_en_2195900{n}.mp3", n, 32000)
    header = "client_id,path,sentence,up_votes,down_votes,age,gender,accents,locale,segment"
    for name, clips in (("train", range(4)), ("dev", [4]), ("test", [5]), ("validated", range(6))):
        votes = (2, 0, "", "", "", "en", "Benchmark")
        names = [(f"hash{n // 2}", f"common_voice_en_2195900{n}.mp3", ("yes", "no")[n % 2], *votes) for n in clips]
        rows(root / "en" / f"{name}.tsv", header, names, "\t")
    return Expected(
        {f"clips/common_voice_en_2195900{n}.mp3": ("yes", "no")[n % 2] for n in range(4)},
        groups=["hash0", "hash0", "hash1", "hash1"],
        said=["path=path, label=sentence, group=client_id"],
    )


BIRDS = ["abethr1/XC128013.ogg", "abethr1/XC363501.ogg", "barswa/XC113914.ogg", "barswa/XC208240.ogg"]


def birdclef(root: Path) -> Expected:
    for number, name in enumerate(
        [*(f"train_audio/{bird}" for bird in BIRDS), "test_soundscapes/soundscape_29201.ogg"]
    ):
        write(root / name, number, 32000)
    header = "primary_label,secondary_labels,type,latitude,longitude,scientific_name,common_name,author,license,rating"
    table = [
        (bird.split("/")[0], "[]", "['song']", 4.3, 38.2, "Turdus", "Thrush", f"author {n}", "CC", 4.0, bird)
        for n, bird in enumerate(BIRDS)
    ]
    rows(root / "train_metadata.csv", f"{header},filename", table)
    rows(root / "eBird_Taxonomy_v2021.csv", "TAXON_ORDER,CATEGORY,SPECIES_CODE", [(1, "species", "abethr1")])
    return Expected(
        {f"train_audio/{bird}": bird.split("/")[0] for bird in BIRDS},
        said=["path=filename, label=primary_label", "secondary_labels, author", "--columns group=author"],
    )


def birdclef_by_folders(root: Path) -> Expected:
    expected = birdclef(root)
    return Expected(expected.train, said=["folder of the clips to train on: train_audio"])


def nemo(root: Path) -> Expected:
    wavs(root / "wav", [f"{word}_{n}.wav" for word in ("down", "up") for n in range(3)])
    lines = [{"audio_filepath": f"/data/commands/wav/{word}_{n}.wav", "duration": 0.1, "offset": 0.0, "command": word}
             for word in ("down", "up") for n in range(3)]  # fmt: skip
    (root / "train_manifest.json").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return Expected({f"wav/{word}_{n}.wav": word for word in ("down", "up") for n in range(3)})


def nemo_with_offsets(root: Path) -> Expected:
    for n in range(2):
        write(root / "wav" / f"meeting_{n}.wav", n, 16000)
    parts = [("meeting_0", 0.0, "speech"), ("meeting_0", 0.03, "background"), ("meeting_1", 0.05, "speech"),
             ("meeting_1", 0.0, "background")]  # fmt: skip
    lines = [{"audio_filepath": f"wav/{name}.wav", "offset": offset, "duration": 0.025, "label": label}
             for name, offset, label in parts]  # fmt: skip
    (root / "vad.json").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return Expected(
        {f"wav/{name}.wav#t={offset:g},{offset + 0.025:g}": label for name, offset, label in parts},
        groups=["wav/meeting_0.wav"] * 2 + ["wav/meeting_1.wav"] * 2,
        said=["parts of recordings (start=offset, duration=duration): 4, of 2 files"],
    )


def audiofolder_of_classes(root: Path) -> Expected:
    names = [f"{split}/{word}/{n}.wav" for split in ("train", "validation", "test") for word in ("cat", "dog")
             for n in range(2)]  # fmt: skip
    wavs(root, names)
    touch(root, "README.md .gitattributes")
    train = {name: name.split("/")[1] for name in names if not name.startswith("test/")}
    test = {name.removeprefix("test/"): name.split("/")[1] for name in names if name.startswith("test/")}
    return Expected(train, test, said=["validation/: its clips stay in training"])


def audiofolder(root: Path, table: Callable[[Path, list[dict[str, str]]], None]) -> Expected:
    names = [f"data/{n}.wav" for n in range(4)]
    wavs(root, names)
    table(root, [{"file_name": name, "label": ("cat", "dog")[n % 2]} for n, name in enumerate(names)])
    return Expected({name: ("cat", "dog")[n % 2] for n, name in enumerate(names)})


def audiofolder_csv(root: Path) -> Expected:
    def table(folder: Path, clips: list[dict[str, str]]) -> None:
        rows(folder / "metadata.csv", "file_name,label", [list(clip.values()) for clip in clips])

    return audiofolder(root, table)


def audiofolder_jsonl(root: Path) -> Expected:
    def table(folder: Path, clips: list[dict[str, str]]) -> None:
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, clips)))

    return audiofolder(root, table)


def audiofolder_parquet(root: Path) -> Expected:
    import pandas as pd

    return audiofolder(root, lambda root, table: pd.DataFrame(table).to_parquet(root / "metadata.parquet"))


SETS: list[tuple[Callable[[Path], Expected], str]] = [
    (speech_commands, "-i SET"),
    (speech_challenge, "-i SET --challenge speech-commands"),
    (esc50, "-i SET --manifest SET/meta/esc50.csv"),
    (esc50, "--manifest SET/meta/esc50.csv"),
    (urbansound8k, "-i SET --manifest SET/metadata/UrbanSound8K.csv"),
    (urbansound8k, "--manifest SET/metadata/UrbanSound8K.csv"),
    (fsdkaggle2018, "-i SET --manifest SET/FSDKaggle2018.meta/train_post_competition.csv"),
    (fsdkaggle2018_of_the_competition, "-i SET --manifest SET/train.csv"),
    (fsdkaggle2019, "-i SET --manifest SET/train_curated.csv --map *,*="),
    (common_voice, "--manifest SET/en/train.tsv"),
    (birdclef, "-i SET --manifest SET/train_metadata.csv"),
    (birdclef_by_folders, "-i SET"),
    (nemo, "--manifest SET/train_manifest.json"),
    (nemo_with_offsets, "--manifest SET/vad.json"),
    (audiofolder_of_classes, "-i SET"),
    (audiofolder_csv, "--manifest SET/metadata.csv"),
    (audiofolder_jsonl, "--manifest SET/metadata.jsonl"),
    (audiofolder_parquet, "--manifest SET/metadata.parquet"),
]


@pytest.mark.parametrize(
    ("build", "command"), SETS, ids=lambda value: value if isinstance(value, str) else value.__name__
)
def test_a_published_data_set(
    tmp_path: Path, build: Callable[[Path], Expected], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "parquet" in command and not importlib.util.find_spec("pyarrow"):
        pytest.skip("pyarrow is not installed")
    expected = build(tmp_path / "set")
    words = command.replace("SET", str(tmp_path / "set")).split()
    assert preprocess.main([*words, "-w", str(tmp_path / "work"), "-k", "2"]) == 0
    clips = preprocessing.store.load_clips(tmp_path / "work")
    out = capsys.readouterr().out
    train, test = (clips[clips["split"] == split] for split in ("train", "test"))
    heard = train[~train["label"].isin(["silence"])]  # cut out of the noise recordings
    assert dict(zip(heard["fname"], heard["label"], strict=True)) == expected.train
    assert dict(zip(test["fname"], test["label"], strict=True)) == expected.test
    assert heard["group"].tolist() == list(expected.groups or [""] * len(heard))
    if expected.folds:
        assert heard["fold"].tolist() == list(expected.folds)
    assert (clips["split"] == "noise").sum() == expected.noise
    assert [text for text in expected.said if text not in out] == []
