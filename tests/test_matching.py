"""A name in a table means the file that it would mean to a person, or none."""

from __future__ import annotations

import unicodedata

import pytest

from preprocessing.matching import Matcher

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é.wav") for form in ("NFC", "NFD"))
NAMES = ["audio/fold1/1.wav", "audio/fold2/2.WAV", "audio/fold2/clip.one.flac", "audio/fold3/Yes.wav", DECOMPOSED]


@pytest.mark.parametrize(
    ("text", "name", "how"),
    [
        ("audio/fold1/1.wav", NAMES[0], ""),
        ("./audio//fold1/1.wav", NAMES[0], ""),
        ("audio\\fold1\\1.wav", NAMES[0], ""),
        ("C:\\data\\audio\\fold1\\1.wav", NAMES[0], "folder"),
        ("1.wav", NAMES[0], "folder"),
        ("1", NAMES[0], "folder, ending"),
        ("2.wav", NAMES[1], "folder, case"),
        ("fold2/2.wav", NAMES[1], "folder, case"),
        ("AUDIO/fold2/2.WAV", NAMES[1], "case"),
        ("clip.one", NAMES[2], "folder, ending"),
        ("clip.one.mp3", NAMES[2], "folder, ending"),
        ("/somebody/else/audio/fold3/yes.wav", NAMES[3], "folder, case"),
        ("other/yes.wav", NAMES[3], "folder, case"),  # no folder is called other
        ("fold1/yes.wav", None, ""),  # but one is called fold1
        ("fold9/fold1/1.wav", NAMES[0], "folder"),
        (COMPOSED, NAMES[4], "unicode"),
        ("3.wav", None, ""),
        ("clip", None, ""),
        ("", None, ""),
    ],
)
def test_a_text_means_one_name(text: str, name: str | None, how: str) -> None:
    assert Matcher(NAMES).find(text)[:2] == (name, how)


def test_numbers_as_spreadsheets_write_them() -> None:
    matcher = Matcher(["a/007.wav", "a/0010.wav", "b/010.wav", "a/8.wav", "a/08.wav", "a/1.5.wav"])
    assert [matcher.find(text)[:2] for text in ("7", "7.0", "7.wav", "8.0", "1.5")] == [
        ("a/007.wav", "folder, zeros"),
        ("a/007.wav", "folder, zeros"),
        ("a/007.wav", "folder, zeros"),
        (None, ""),
        ("a/1.5.wav", "folder, ending"),
    ]
    assert matcher.find("10").several == ("a/0010.wav", "b/010.wav")
    assert matcher.find("8").name == "a/8.wav"
    assert matcher.find("1.6").name is None
    assert matcher.find("8.5").name is None


def test_names_of_the_network_and_of_other_kinds_of_files() -> None:
    matcher = Matcher(["audio/a b.wav", "audio/c.wav"])
    assert matcher.find("https://host/x/a%20b.wav?download=1").name == "audio/a b.wav"
    assert matcher.find("features/c.npy").name == "audio/c.wav"
    assert matcher.find("c.v2").name is None


def test_several_names_are_told_apart_by_a_folder_or_not_at_all() -> None:
    matcher = Matcher(["fold1/1.wav", "fold2/1.wav", "fold2/2.wav", "fold2/2.flac"])
    assert matcher.find("1.wav") == (None, "", ("fold1/1.wav", "fold2/1.wav"))
    assert matcher.find("1.wav", ["2", "fold2"]).name == "fold2/1.wav"
    assert matcher.find("1.wav", against={"fold1"}).name == "fold2/1.wav"
    assert matcher.find("fold1/1.wav", against={"fold1"}).name == "fold1/1.wav"
    assert matcher.find("1.wav", ["dog"]).name is None
    assert matcher.find("2.flac").name == "fold2/2.flac"
    assert matcher.find("2").several == ("fold2/2.wav", "fold2/2.flac")
    assert matcher.find("2.mp3").name is None


def test_the_nearest_name_is_for_a_message() -> None:
    matcher = Matcher(["train/clip_0001.wav", "test/clip_0002.wav"])
    assert matcher.nearest("clip_001.wav") == "train/clip_0001.wav"
    assert matcher.nearest("train/clip_0002.wav") == "test/clip_0002.wav"
    assert matcher.nearest("rain.mp3") is None


def test_names_that_differ_only_in_their_unicode_form_are_told() -> None:
    assert Matcher([COMPOSED, "a.wav", DECOMPOSED]).twins() == [(COMPOSED, DECOMPOSED)]
    assert Matcher(["a.wav", COMPOSED]).twins() == []
