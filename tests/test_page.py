"""The report's page: nothing in it runs or loads but its own script, and it shows what it says it shows."""

from __future__ import annotations

import copy
import io
import itertools
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from benchmarks.browser import Tab, find_browser, open_browser
from benchmarks.report_page import made_report
from reporting import page
from reporting.media import BUDGET_BYTES, clip_media, flac, opus, picture
from reporting.page import embedded_json, write_page

HOSTILE = "<img src=x onerror=alert(1)>"
ENDS_SCRIPT = "</script><script>alert(2)</script><!--"
CLASSES = ("tree", "three", HOSTILE, ENDS_SCRIPT, "go")


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """Predictions of 2,000 clips, hostile names among them; 300 clips are listed, 40 of them with sound."""
    report = made_report(2000, CLASSES, sounds=40, listed=300)
    report["clips"]["fname"][:3] = [f"{HOSTILE}.wav", f"{ENDS_SCRIPT}.wav", "javascript:alert(3)\u2028.wav"]
    report["clips"]["group"][0] = report["groups"][0]["name"] = HOSTILE
    report["clips"]["problems"][0] = [HOSTILE]
    report["runs"][0]["name"] = report["title"] = ENDS_SCRIPT
    report["verdict"][0] = f"{HOSTILE} is the verdict."
    return report


# --------------------------------------------------------------------------------------------- without a browser


class Elements(HTMLParser):
    """The elements of a page as an HTML parser finds them, and what the JSON block holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.data = ""
        self._inside_data = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside_data = ("id", "data") in attrs

    def handle_endtag(self, tag: str) -> None:
        self._inside_data = False

    def handle_data(self, data: str) -> None:
        if self._inside_data:
            self.data += data


def test_names_stay_inside_the_data(report: dict[str, Any], tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", report)
    text = (tmp_path / "report.html").read_text("utf-8")
    elements = Elements(text)
    assert "img" not in elements.tags
    assert elements.tags.count("script") == 2  # the data and page.js
    assert json.loads(elements.data)["clips"]["fname"][:2] == [f"{HOSTILE}.wav", f"{ENDS_SCRIPT}.wav"]
    assert not re.search("[<>&\u2028\u2029]", elements.data)
    assert "'unsafe-inline'" not in text
    assert "https:" not in text.replace("http://www.w3.org/2000/svg", "")


def test_any_string_comes_back_from_embedded_json() -> None:
    strings = [HOSTILE, ENDS_SCRIPT, "&lt;", "\u2028\u2029", '"\\', "\x00", "ü", "$data", "😀"]
    assert json.loads(embedded_json(strings)) == strings


def test_numbers_are_plain_and_finite(report: dict[str, Any], tmp_path: Path) -> None:
    odd = copy.deepcopy(report)
    odd["subject"]["scores"]["ece"] = np.array([np.nan, -np.inf, 0.123456789])
    odd["clips"]["fname"][3] = "\udcff.wav"  # a name that is not UTF-8, as os.fsdecode gives it
    write_page(tmp_path / "report.html", odd)
    data = json.loads(Elements((tmp_path / "report.html").read_text("utf-8")).data)
    assert data["subject"]["scores"]["ece"] == [None, None, 0.123457]
    assert data["clips"]["fname"][3] == "?.wav"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("pairs"), r"report: lacks .*pairs"),
        (lambda r: r["runs"][1].update(colour="red"), r"report\.runs\[1\]: .*unknown .*colour"),
        (lambda r: r["ensemble"]["members"][0].pop("weight"), r"report\.ensemble\.members\[0\]: lacks .*weight"),
        (lambda r: r["clips"].update(fold=[0]), r"report\.clips: columns of several lengths"),
        (lambda r: r["clips"]["label"].__setitem__(0, 5), r"label and predicted must be below 5"),
        (lambda r: r["confusion"].update(order=[0, 0, 1, 2, 3]), r"confusion\.order: must be a permutation"),
    ],
)
def test_another_form_is_refused_by_place(report: dict[str, Any], tmp_path: Path, change: Any, message: str) -> None:
    broken = copy.deepcopy(report)
    change(broken)
    with pytest.raises(ValueError, match=message):
        write_page(tmp_path / "report.html", broken)
    assert not list(tmp_path.iterdir())


def test_too_large_a_page_loses_the_last_sounds(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    write_page(path, report)
    monkeypatch.setattr(page, "MOST_BYTES", path.stat().st_size - 100_000)
    write_page(path, report)
    assert page.MOST_BYTES - 50_000 < path.stat().st_size <= page.MOST_BYTES
    audio = json.loads(Elements(path.read_text("utf-8")).data)["clips"]["audio"]
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

CARDS = "[...document.querySelectorAll('.card')].map(card => +card.dataset.clip)"
STATUS = "document.querySelector('#clips [role=status]').textContent"


@pytest.fixture(scope="module")
def tab(report: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    program = find_browser()
    if program is None:
        pytest.skip("needs chromium or google-chrome on PATH")
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, report)
    with open_browser(program) as tab:
        tab.look(1200, 900)
        tab.goto(path)
        yield tab


def choose(tab: Tab, name: str, value: object) -> None:
    """Set a filter as a person would: a change event follows."""
    tab.evaluate(
        f"(() => {{ const field = document.querySelector('[name={name}]'); field.value = {json.dumps(value)}; "
        "for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind, {bubbles: true})); })()"
    )


def listed(report: dict[str, Any], **columns: object) -> list[int]:
    clips = report["clips"]
    return [i for i in range(len(clips["fname"])) if all(clips[name][i] == value for name, value in columns.items())]


def test_a_confusion_cell_opens_its_clips(tab: Tab, report: dict[str, Any]) -> None:
    counts = np.array(report["confusion"]["counts"])
    given, predicted = divmod(int((counts - np.diag(counts.diagonal())).argmax()), len(CLASSES))
    tab.click(f"td[data-given='{given}'][data-predicted='{predicted}']")
    expected = listed(report, label=given, predicted=predicted)
    assert expected
    assert tab.evaluate(CARDS) == expected[:24]
    assert f"{len(expected)} of {counts[given, predicted]} clips given as" in tab.evaluate(STATUS)
    assert tab.evaluate("document.activeElement.textContent") == "Clips"


def test_the_matrix_is_used_by_keyboard(tab: Tab, report: dict[str, Any]) -> None:
    order = report["confusion"]["order"]
    tab.evaluate("document.querySelector('.matrix td').click()")
    tab.evaluate("document.querySelector('.matrix td[tabindex=\"0\"]').focus()")
    tab.press("ArrowRight")
    tab.press("ArrowDown")
    tab.press("ArrowLeft")
    focused = tab.evaluate("({...document.activeElement.dataset})")
    assert focused == {"given": str(order[1]), "predicted": str(order[0])}
    assert tab.evaluate("document.querySelectorAll('.matrix td[tabindex=\"0\"]').length") == 1
    tab.press("ArrowRight")
    tab.press("Enter")
    assert tab.evaluate(CARDS) == listed(report, label=order[1], predicted=order[1])[:24]


def test_filters_show_exactly_their_clips(tab: Tab, report: dict[str, Any]) -> None:
    clips = report["clips"]
    tab.evaluate("[...document.querySelectorAll('.found button')].forEach(button => button.click())")
    assert tab.evaluate(CARDS) == list(range(24))
    choose(tab, "fold", "2")
    assert tab.evaluate(CARDS) == listed(report, fold=2)[:24]
    choose(tab, "problem", "suspected wrong label")
    both = [i for i in listed(report, fold=2) if "suspected wrong label" in clips["problems"][i]]
    assert tab.evaluate(CARDS) == both[:24]
    choose(tab, "fold", "-1")
    choose(tab, "problem", "")
    choose(tab, "text", clips["group"][5].upper())
    assert tab.evaluate(CARDS) == [i for i in range(300) if clips["group"][5] in clips["fname"][i]][:24]
    choose(tab, "text", "no such clip")
    assert tab.evaluate(CARDS) == []
    assert tab.evaluate(STATUS).startswith("0 of 300")
    choose(tab, "text", "")


def test_a_clip_can_be_heard(tab: Tab) -> None:
    duration = tab.wait_for("document.querySelector('audio').duration")
    assert 0.3 < duration < 1.1  # recorded words and tones of about a second
    tab.click(".play")
    assert tab.wait_for("document.querySelector('audio').currentTime > 0")
    assert tab.wait_for("document.querySelector('.card img').naturalWidth") == 64


def test_the_theme_can_be_changed(tab: Tab) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(ground)
    tab.click("#theme")
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    assert tab.evaluate(ground) != light
    tab.click("#theme")
    assert tab.evaluate(ground) == light


def test_a_weak_speaker_opens_its_clips(tab: Tab, report: dict[str, Any]) -> None:
    named = [group["name"] for group in report["groups"]]
    speaker = next(i for i, name in enumerate(named) if i and name in report["clips"]["group"])
    tab.evaluate(f"document.querySelectorAll('#speakers button')[{speaker}].click()")
    assert tab.evaluate(CARDS) == listed(report, group=named[speaker])[:24]
    said = tab.evaluate(f"document.querySelectorAll('#speakers tbody th')[{len(named) - 1}].textContent")
    assert said.endswith("(within chance)")


def test_hostile_names_are_text_and_nothing_was_loaded_or_complained_of(tab: Tab) -> None:
    """Last: of everything that the tests above did."""
    shown = tab.evaluate("document.body.innerText")
    assert f"{HOSTILE} is the verdict." in shown
    assert f"{HOSTILE}.wav" in shown
    assert shown.count(ENDS_SCRIPT) > 1
    assert tab.evaluate("[...document.images].every(image => image.src.startsWith('data:image/png'))")
    assert tab.evaluate("document.scripts.length") == 2
    requested = tab.requested()
    assert requested[0].startswith("file:")
    assert [url for url in requested[1:] if not url.startswith(("data:", "blob:"))] == []
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


@pytest.mark.parametrize("odd", ["no errors", "long names", "two classes"])
def test_odd_reports_are_drawn_to_the_end(tab: Tab, tmp_path: Path, odd: str) -> None:
    made = made_report(200, CLASSES[:2] if odd == "two classes" else CLASSES, sounds=1, listed=50)
    if odd == "long names":
        made["task"]["classes"] = made["verdict"] = [f"{name}{'é' * 195}" for name in CLASSES]
    if odd == "no errors":
        for run in made["runs"]:
            for fold in run["history"]:
                fold["valid_accuracy"] = np.ones(len(fold["epoch"]))
        made |= {"pairs": [], "groups": [], "duplicates": []}
        made["coverage"]["at_target"] = None
    write_page(tmp_path / "report.html", made)
    before = len(tab.complaints())
    tab.goto(tmp_path / "report.html")
    assert tab.evaluate("document.querySelector('footer').textContent").startswith("Intervals are")
    assert tab.complaints()[before:] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1200


def test_no_label_of_a_chart_lies_on_another(tab: Tab, report: dict[str, Any], tmp_path: Path) -> None:
    made = copy.deepcopy(report)
    for factor in made["factors"]:
        factor["bins"] = [{**factor["bins"][0], "label": f"-{90 - n} to -{89 - n}"} for n in range(10)]
    write_page(tmp_path / "report.html", made)
    tab.goto(tmp_path / "report.html")
    rows = tab.evaluate(
        "[...document.querySelectorAll('#factors svg')].map(chart => "
        "[...chart.querySelectorAll('text[text-anchor=middle]')].map(text => text.getBoundingClientRect())"
        ".map(({left, right}) => [left, right]))"
    )
    for row in rows:
        assert len(row) == 3
        assert all(right < left for (_, right), (left, _) in itertools.pairwise(row))
