"""The report's page: nothing in it runs or loads but its own script, and it shows what it says it shows."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from numpy.typing import NDArray
from PIL import Image

from arg import NO_AUGMENT, FeatureOptions, OptimConfig, RunConfig
from benchmarks.browser import Tab, find_browser, open_browser
from reporting import page
from reporting.charts import logarithmic
from reporting.findings import SUSPECT, Findings
from reporting.gather import COMPLETE, INCOMPLETE, HeldOut, Run
from reporting.media import BUDGET_BYTES, Media, clip_media, flac, opus, picture
from reporting.page import write_page
from reporting.systems import judge_runs
from reporting.verdict import say
from tests.pages import Page, listed

HOSTILE = "<img src=x onerror=alert(1)>"
ENDS_SCRIPT = "</script><script>alert(2)</script><!--"
CLASSES = ("tree", "three", HOSTILE, ENDS_SCRIPT, "go")
CLIPS, FOLDS, SPEAKERS = 2000, 4, 50
RATE = 8000


class Made(HeldOut):
    """Clips without a store."""

    def loud_over_quiet(self) -> NDArray[np.float64]:
        return np.linspace(5, 60, len(self))


def made_findings(
    work: Path, classes: Sequence[str] = CLASSES, clips: int = CLIPS, skill: float = 3.5, run: str = ENDS_SCRIPT
) -> Findings:
    """What two complete runs and one that is not predict of drawn clips, hostile names among them."""
    draw = np.random.default_rng(0)
    truth, group = draw.integers(len(classes), size=clips), np.arange(clips) % SPEAKERS
    names = [HOSTILE, *(f"speaker{number}" for number in range(1, SPEAKERS))]
    fold = group % FOLDS
    fname = [f"train/{number}_nohash.wav" for number in range(clips)]
    fname[:3] = [f"{HOSTILE}.wav", f"{ENDS_SCRIPT}.wav", "javascript:alert(3)\u2028.wav"]
    table = pd.DataFrame(
        {
            "fname": fname, "label": np.array(classes, object)[truth], "group": np.array(names, object)[group],
            "fold": fold, "flags": "", "cluster": "", "rms_db": draw.normal(-30, 9, clips),
            "length": draw.integers(RATE // 2, RATE, clips),
        }
    )  # fmt: skip
    table.loc[[5, 6], "cluster"] = "c"
    held = Made(
        work, Path("made"), tuple(classes), FOLDS, "", RATE, RATE, table, truth, fold, group, tuple(names), True, 0
    )
    hard = draw.standard_normal((clips, len(classes)))
    hard[np.arange(clips), truth] += skill * draw.uniform(0.5, 1.5, clips)
    hard[np.arange(3), truth[:3]] -= 20  # listed first
    config = RunConfig(
        "resnet18", tuple(classes), (1,) * len(classes), FeatureOptions().resolve(RATE, RATE), NO_AUGMENT,
        OptimConfig(), 0, 0, "",
    )  # fmt: skip
    losses = [{"epoch": epoch, "train_loss": 1 / (epoch + 1), "valid_loss": 1 / (epoch + 1)} for epoch in range(5)]
    history = [{**row, "valid_accuracy": 1 - 1 / (row["epoch"] + 2)} for row in losses]

    def trained(name: str, folds: int, noise: float) -> Run:
        odds = np.exp(hard + noise * draw.standard_normal((2, *hard.shape)))
        rows = fold < folds
        odds[:, ~rows] = 0
        chances = np.divide(odds, odds.sum(2, keepdims=True), out=np.zeros_like(odds), where=odds > 0)
        note, command = ("", "") if folds == FOLDS else (f"fold 3 not trained {HOSTILE}", f"train.py {HOSTILE}")
        status = COMPLETE if folds == FOLDS else INCOMPLETE
        curves = dict.fromkeys(range(folds), history)
        return Run(
            name, status, note, command, tuple(range(folds)), rows, chances.astype(np.float32), curves, 60.0, config
        )

    results = judge_runs(held, [trained(run, FOLDS, 0.5), trained("second", FOLDS, 1.0), trained("third", 3, 0.5)])
    return Findings(results, results.best())


def write(path: Path, findings: Findings, monkeypatch: pytest.MonkeyPatch, sounds: int = 40) -> Page:
    """The page with the sound of 40 clips."""
    monkeypatch.setattr(page, "WITH_MEDIA", sounds)
    monkeypatch.setattr(page, "media_of", lambda clips, runs, rows: made_media(len(rows)))
    comparisons = findings.results.comparisons()
    write_page(path, findings, comparisons, say(findings, comparisons), "python report.py")
    return Page(path)


def made_media(clips: int) -> Media:
    waves = [(8000 * np.sin(np.arange(RATE) * (0.1 + 0.01 * number))).astype(np.int16) for number in range(clips)]
    return clip_media(waves, RATE, [np.random.default_rng(0).normal(size=(64, 64))] * clips)


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return made_findings(tmp_path_factory.mktemp("none"))


@pytest.fixture(scope="module")
def made(
    findings: Findings, tmp_path_factory: pytest.TempPathFactory, monkeypatch_module: pytest.MonkeyPatch
) -> tuple[Path, Page]:
    path = tmp_path_factory.mktemp("page") / "report.html"
    return path, write(path, findings, monkeypatch_module)


# --------------------------------------------------------------------------------------------- without a browser


def test_names_are_text(made: tuple[Path, Page]) -> None:
    _, found = made
    root = found.root
    assert len(list(root.every("script"))) == len(list(root.every("style"))) == 1
    assert all(image["src"].startswith("data:image/png;") for image in root.every("img"))
    assert not [name for node in root.every() for name in node.attributes if name.startswith("on") or name == "style"]
    assert not [node for node in root.every() if (node["href"] or "#")[0] not in "#d"]
    cards = found.cards
    assert {f"{HOSTILE}.wav", f"{ENDS_SCRIPT}.wav"} <= {card["fname"] for card in cards}
    assert any(HOSTILE in card["text"] and f"speaker {HOSTILE}" in card["text"] for card in cards)
    assert ENDS_SCRIPT in [row[0] for row in found.rows("runs")]
    assert f"train.py {HOSTILE}" in root.one("section", id="runs").one("code").text
    shown = [json.loads(node["data-show"]) for node in root.every() if node["data-show"]]
    assert any(HOSTILE in one.get("text", "") for one in shown)
    assert "'unsafe-inline'" not in found.source
    assert "https:" not in found.source


def test_all_is_there_without_a_script(made: tuple[Path, Page], findings: Findings) -> None:
    _, found = made
    scores = findings.system.summary
    assert found.verdict == say(findings, findings.results.comparisons())
    worst = min(scores.classes, key=lambda one: one.f1.value)
    classes = found.rows("classes")
    assert len(classes) == len(CLASSES)
    assert classes[0][4].startswith(f"{worst.f1.value:.3f} ")
    assert sum(found.cells.values()) == CLIPS
    diagonal = [cell for cell in found.root.one("table", "matrix").every("td") if cell["class"].startswith("r")]
    assert len(diagonal) == len(CLASSES)
    cards = found.cards
    assert [card["fname"] for card in cards if SUSPECT in card["kinds"]] == findings.suspects["fname"].tolist()
    assert len(list(found.section("curves").every("path", "line"))) == 3 * (4 + 4 + 3)
    assert len(found.rows("comparisons")) >= 1
    assert len(found.rows("ensemble")) == 4
    assert len(found.rows("speakers")) == 20
    settings = found.rows("runs", 1)
    assert [row[1:4] for row in settings] == [["2,000", "4 of 4", "13"]] * 2 + [["1,520", "3 of 4", "13"]]


@pytest.mark.parametrize("lowest", [2e-5, 0.003, 0.2])
def test_a_logarithmic_axis_has_room_for_its_marks(lowest: float) -> None:
    axis = logarithmic("loss, nats", [lowest, 0.0, 3.4])
    assert axis.low <= lowest < 3.4 <= axis.high
    assert 2 <= len(axis.marks) <= 10


def test_numbers_that_are_none_and_names_that_are_not_utf_8(
    findings: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = findings.clips
    table = clips.table.assign(fname=["\udcff.wav", *clips.table["fname"][1:]])
    odd = Findings(
        dataclasses.replace(findings.results, clips=dataclasses.replace(clips, table=table)), findings.system
    )
    found = write(tmp_path / "report.html", odd, monkeypatch)
    assert "?.wav" in {card["fname"] for card in found.cards}
    assert page.percent(float("nan")) == page.decimal(float("nan")) == page.points(float("inf")) == "\N{EN DASH}"
    assert page.chance(1e-9).startswith("< 0.1")
    assert page.chance(1 - 1e-9).startswith("> 99.9")


def test_too_large_a_page_loses_the_last_sounds(
    findings: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    write(path, findings, monkeypatch)
    size = path.stat().st_size
    monkeypatch.setattr(page, "MOST_BYTES", size - 100_000)
    audio = [card["audio"] for card in write(path, findings, monkeypatch).cards]
    assert page.MOST_BYTES - 50_000 < path.stat().st_size <= page.MOST_BYTES
    kept = sum(sound is not None for sound in audio)
    assert 0 < kept < 40
    assert all(audio[:kept])


# --------------------------------------------------------------------------------------------------------- media


def noise(samples: int) -> Any:
    return (3000 * np.random.default_rng(0).standard_normal(samples)).astype(np.int16)


def test_media_are_lossless_where_all_fit_else_small() -> None:
    waves = [noise(8000)] * 6
    mel = [np.random.default_rng(0).normal(size=(64, 64))] * 6
    roomy = clip_media(waves, 8000, mel, BUDGET_BYTES)
    assert roomy.codec == "FLAC"
    needed = sum(map(len, filter(None, roomy.audio + roomy.mel)))
    assert clip_media(waves, 8000, mel, needed) == roomy
    tight = clip_media(waves, 8000, mel, needed // 4)
    assert tight.codec == "Opus"
    kept = sum(sound is not None for sound in tight.audio)
    assert 0 < kept < 6
    assert all(
        (sound is None) == (image is None) == (i >= kept)
        for i, (sound, image) in enumerate(zip(*tight[:2], strict=True))
    )
    assert sum(map(len, filter(None, tight.audio + tight.mel))) <= needed // 4


def test_flac_is_the_clip_itself_and_opus_as_long() -> None:
    wave = noise(11025)
    decoded, rate = soundfile.read(io.BytesIO(flac(wave, 22050)), dtype="int16")
    assert rate == 22050
    np.testing.assert_array_equal(decoded, wave)
    info = soundfile.info(io.BytesIO(opus(wave, 22050)))  # a rate that Opus does not have
    assert (info.samplerate, info.frames) == (24_000, 12_000)
    assert soundfile.info(io.BytesIO(opus(noise(44100), 96_000))).samplerate == 48_000


def test_picture_has_low_bands_at_the_bottom_and_loud_is_bright() -> None:
    feature = np.zeros((128, 300))
    feature[:32] = 10.0  # low bands, loud
    image = Image.open(io.BytesIO(picture(feature)))
    assert image.size == (96, 64)
    brightness = np.asarray(image.convert("L"))
    assert brightness[-1].min() > 200
    assert brightness[0].max() < 10
    assert Image.open(io.BytesIO(picture(np.zeros((16, 20))))).size == (20, 16)  # silence, as small as it is


# ------------------------------------------------------------------------------------------------ in the browser

SHOWN = "[...document.querySelectorAll('.card')].map(card => +card.dataset.clip)"
STATUS = "document.querySelector('#clips [role=status]').textContent"


@pytest.fixture(scope="module")
def tab(made: tuple[Path, Page]) -> Iterator[Tab]:
    program = find_browser()
    if program is None:
        pytest.skip("needs chromium or google-chrome on PATH")
    with open_browser(program) as tab:
        tab.look(1200, 900)
        tab.goto(made[0])
        yield tab


@pytest.fixture(scope="module")
def cards(made: tuple[Path, Page]) -> list[dict[str, Any]]:
    return made[1].cards


def choose(tab: Tab, name: str, value: object) -> None:
    """Set a filter as a person would: an event follows."""
    tab.evaluate(
        f"(() => {{ const field = document.querySelector('[name={name}]'); field.value = {json.dumps(value)}; "
        "field.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def cell(given: int, predicted: int) -> str:
    return f'.matrix [data-show*=\'"given":{given},"predicted":{predicted},\']'


def test_a_confusion_cell_opens_its_clips(tab: Tab, made: tuple[Path, Page], cards: list[dict[str, Any]]) -> None:
    wrong = {pair: clips for pair, clips in made[1].cells.items() if pair[0] != pair[1]}
    given, predicted = max(wrong, key=wrong.__getitem__)
    tab.click(cell(given, predicted))
    expected = listed(cards, label=given, predicted=predicted)
    assert len(expected) == wrong[given, predicted]
    assert tab.evaluate(SHOWN) == expected[:24]
    assert tab.evaluate(STATUS).startswith(
        f"{len(expected)} of {len(cards)} listed clips. The cell has {len(expected)}."
    )
    assert tab.evaluate("document.activeElement.textContent").startswith("Clips")


def test_the_matrix_is_used_from_the_keyboard(tab: Tab, made: tuple[Path, Page], cards: list[dict[str, Any]]) -> None:
    order = [json.loads(head["data-show"])["given"] for head in made[1].root.one("table", "matrix").every("td") if
             head["class"].startswith("r")]  # fmt: skip
    tab.evaluate("document.querySelector('.matrix td').click()")
    tab.evaluate("document.querySelector('.matrix td').focus()")
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft"):
        tab.press(key)
    place = tab.evaluate("[document.activeElement.parentNode.sectionRowIndex, document.activeElement.cellIndex - 1]")
    assert place == [1, 0]
    assert tab.evaluate("document.querySelectorAll('.matrix td[tabindex=\"0\"]').length") == 1
    tab.press("ArrowRight")
    tab.press("Enter")
    assert tab.evaluate(SHOWN) == listed(cards, label=order[1], predicted=order[1])[:24]


def test_filters_show_exactly_their_clips(tab: Tab, cards: list[dict[str, Any]]) -> None:
    tab.evaluate("document.querySelector('#all').click()")
    assert tab.evaluate(SHOWN) == list(range(24))
    tab.evaluate("document.querySelector('#after').click()")
    assert tab.evaluate(SHOWN) == list(range(24, 48))
    choose(tab, "fold", "2")
    assert tab.evaluate(SHOWN) == listed(cards, fold=2)[:24]
    choose(tab, "kind", SUSPECT)
    both = [at for at in listed(cards, fold=2) if SUSPECT in cards[at]["kinds"]]
    assert tab.evaluate(SHOWN) == both[:24]
    choose(tab, "fold", "")
    choose(tab, "kind", "")
    name = cards[5]["fname"]
    choose(tab, "text", name.upper())
    assert tab.evaluate(SHOWN) == [5]
    choose(tab, "text", "no such clip")
    assert tab.evaluate(SHOWN) == []
    assert tab.evaluate(STATUS).startswith(f"0 of {len(cards)}")
    choose(tab, "text", "")
    choose(tab, "order", "sure")
    assert tab.evaluate(SHOWN)[0] == max(range(len(cards)), key=lambda at: cards[at]["confidence"])
    choose(tab, "order", "")


def test_classes_are_sorted(tab: Tab) -> None:
    clips = "[...document.querySelectorAll('#classes tbody tr')].map(row => +row.cells[1].dataset.key)"
    tab.click("#classes thead th:nth-child(2) button")
    assert tab.evaluate(clips) == sorted(tab.evaluate(clips))
    tab.click("#classes thead th:nth-child(2) button")
    assert tab.evaluate(clips) == sorted(tab.evaluate(clips), reverse=True)


def test_a_clip_can_be_heard(tab: Tab) -> None:
    tab.click(".card img")
    assert tab.wait_for("document.querySelector('audio').currentTime > 0")
    assert 0.3 < tab.evaluate("document.querySelector('audio').duration") < 1.1
    assert tab.wait_for("document.querySelector('.card img').naturalWidth") == 64
    tab.click(".card:nth-child(2) img")
    assert tab.wait_for("document.querySelectorAll('audio')[1].currentTime > 0")
    assert tab.evaluate("document.querySelector('audio').paused")  # one at a time


def test_the_theme_can_be_changed(tab: Tab) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(ground)
    tab.click("#theme")
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    assert tab.evaluate(ground) != light
    tab.click("#theme")
    assert tab.evaluate(ground) == light


def test_a_weak_speaker_and_a_pair_open_their_clips(
    tab: Tab, made: tuple[Path, Page], cards: list[dict[str, Any]]
) -> None:
    speaker = next(made[1].section("speakers").every("button"))
    group = json.loads(speaker["data-show"])["group"]
    tab.evaluate("document.querySelector('#speakers button').click()")
    assert tab.evaluate(SHOWN) == listed(cards, group=group)[:24]
    pair = json.loads(next(made[1].section("confusion").every("button"))["data-show"])["pair"]
    tab.evaluate("document.querySelector('#confusion button').click()")
    both = listed(cards, label=pair[0], predicted=pair[1]) + listed(cards, label=pair[1], predicted=pair[0])
    assert tab.evaluate(SHOWN) == sorted(both)[:24]
    tab.evaluate("document.querySelector('.chip').click()")
    assert tab.evaluate(SHOWN) == list(range(24))


@pytest.mark.parametrize("width", [375, 1200])
def test_nothing_is_wider_than_the_window(tab: Tab, width: int) -> None:
    """Wide tables scroll by themselves, and no link is broken letter by letter."""
    tab.look(width, 900)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert (
        tab.evaluate("Math.min(...[...document.querySelectorAll('#confusion .link')].map(link => link.offsetWidth))")
        > 25
    )
    tab.look(1200, 900)


def test_hostile_names_are_text_and_nothing_was_loaded_or_complained_of(tab: Tab) -> None:
    """Last: of everything that the tests above did."""
    shown = tab.evaluate("document.body.innerText")
    assert f"{HOSTILE}.wav" in shown
    assert shown.count(ENDS_SCRIPT) > 1
    assert tab.evaluate("[...document.images].every(image => image.src.startsWith('data:image/png'))")
    assert tab.evaluate("document.scripts.length") == 1
    requested = tab.requested()
    assert requested[0].startswith("file:")
    assert [url for url in requested[1:] if not url.startswith("data:")] == []
    assert tab.complaints() == []
    assert not [method for method, _ in tab.events if method == "Page.javascriptDialogOpening"]


def test_the_policy_stops_what_would_slip_through(tab: Tab) -> None:
    """Were a name ever taken for markup, its handler would not run and its picture not be fetched."""
    tab.evaluate(f"document.body.insertAdjacentHTML('beforeend', {json.dumps(HOSTILE)})")
    tab.wait_for("document.images[document.images.length - 1].complete")
    blocked = [params.get("blockedReason") for method, params in tab.events if method == "Network.loadingFailed"]
    assert blocked == ["csp"]
    assert not [method for method, _ in tab.events if method == "Page.javascriptDialogOpening"]
    assert any("inline event handler" in complaint for complaint in tab.complaints())


@pytest.mark.parametrize("odd", ["no errors", "long names", "two classes", "many classes", "at chance"])
def test_odd_reports_are_drawn_to_the_end(tab: Tab, tmp_path: Path, odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = {
        "two classes": CLASSES[:2],
        "long names": [f"{name}{'e' * 195}" for name in CLASSES],
        "many classes": [f"class {number}" for number in range(70)],
    }.get(odd, CLASSES)
    skill = {"no errors": 200.0, "at chance": 0.0}.get(odd, 3.5)
    found = write(tmp_path / "report.html", made_findings(tmp_path, classes, 400, skill), monkeypatch, 1)
    assert len(list(found.root.one("table", "matrix").every("tr"))) == 1 + min(len(classes), 60)
    assert ("has learned nothing" in found.verdict[0]) == (odd == "at chance")
    before = len(tab.complaints())
    tab.goto(tmp_path / "report.html")
    assert tab.evaluate("document.querySelector('footer').textContent").strip().startswith("Every clip is judged")
    assert tab.complaints()[before:] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1200


def test_no_label_of_a_chart_lies_on_another(tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "report.html", made_findings(tmp_path), monkeypatch, 1)
    tab.goto(tmp_path / "report.html")
    rows = tab.evaluate(
        "[...document.querySelectorAll('#factors svg')].map(chart => "
        "[...chart.querySelectorAll('text.middle')].map(text => text.getBoundingClientRect())"
        ".map(({left, right}) => [left, right]))"
    )
    assert len(rows) == 3
    for row in rows:
        assert len(row) == 3
        assert all(right < left for (_, right), (left, _) in itertools.pairwise(row))
