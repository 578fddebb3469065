"""How large the report's page is and how soon it opens, on made predictions for any number of clips.

    python -m benchmarks.report_page --clips 60000
    python -m benchmarks.report_page --clips 5000 --screenshots /tmp/page

The predictions are drawn, none of a network: words that sound alike are confused, some speakers are weak, some labels
are wrong. Sounds are recorded words where ../shared/data has them, else tones. The page is opened in headless Chromium,
cold, three times; prints medians. `--screenshots` also takes pictures of it, light, dark and as narrow as a phone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arg import FeatureOptions
from benchmarks.browser import Tab, find_browser, open_browser
from benchmarks.common import ROOT, WORDS
from reporting.media import clip_media
from reporting.page import write_page
from util import macro_f1, wilson_interval

ALIKE = (
    ("three", "tree"),
    ("bed", "bird"),
    ("four", "go"),
    ("go", "no"),
    ("off", "up"),
    ("wow", "one"),
    ("no", "down"),
)
LISTED = 5000
FOLDS = 5
RATE = 16_000
Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report_page", description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=60_000, metavar="N")
    parser.add_argument("--sounds", type=int, default=400, metavar="N", help="clips with sound and picture")
    parser.add_argument("-o", "--output", type=Path, metavar="HTML", help="keep the page")
    parser.add_argument("--screenshots", type=Path, metavar="DIR", help="pictures of the page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = options.output or Path(scratch) / "report.html"
        report = made_report(options.clips, sounds=options.sounds)
        start = time.perf_counter()
        write_page(path, report)
        seconds = time.perf_counter() - start
        print(f"{options.clips:,} clips: {path.stat().st_size / 1e6:.2f} MB, written in {seconds:.2f} s")
        program = find_browser()
        if program is None:
            print("no chromium or google-chrome on PATH: not opened")
            return
        openings = [opening(program, path) for _ in range(3)]
        loaded, shown = (statistics.median(times) for times in zip(*openings, strict=True))
        print(f"opened in {shown:.2f} s until it can be seen, of which {loaded:.2f} s until it is loaded")
        if options.screenshots:
            options.screenshots.mkdir(parents=True, exist_ok=True)
            with open_browser(program) as tab:
                take_pictures(tab, path, options.screenshots)


def opening(program: str, path: Path) -> tuple[float, float]:
    """Seconds until the page has loaded, and until its first frame with everything in it was painted."""
    with open_browser(program) as tab:
        start = time.perf_counter()
        tab.goto(path)
        loaded = time.perf_counter() - start
        tab.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        return loaded, time.perf_counter() - start


def take_pictures(tab: Tab, path: Path, folder: Path) -> None:
    for name, width, dark in (("light", 1200, False), ("dark", 1200, True), ("narrow", 390, False)):
        tab.look(width, 900, dark=dark)
        tab.goto(path)
        time.sleep(0.3)  # until pictures are decoded
        tab.screenshot(folder / f"{name}.png", whole=True)


# ------------------------------------------------------------------------------------------------- what is shown


def made_report(
    clips: int, classes: Sequence[str] = WORDS, sounds: int = 400, listed: int = LISTED, seed: int = 0
) -> dict[str, Any]:
    """A `reporting.page.Report` of drawn predictions; the clips listed first are errors, and have the sounds."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(len(classes), size=clips)
    group = draw.integers(max(2, clips // 40), size=clips)
    fold = group % FOLDS
    runs = {
        f"{net}-{size}x{size}": _predictions(truth, group, classes, margin, draw)
        for net, size, margin in (("dla60_res2next", 128, 5.2), ("resnet18", 128, 4.8), ("resnet18", 64, 4.4))
    }
    mean = np.mean(list(runs.values()), axis=0) ** 1.5  # sharper, as by a temperature
    mean /= mean.sum(1, keepdims=True)
    predicted = mean.argmax(1)
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (truth, predicted), 1)
    confidence, right = mean.max(1), predicted == truth
    at_target = _at_target(confidence, right)
    scores = {name: _scores(truth, p) for name, p in runs.items()}
    subject: dict[str, Any] = {"name": "Greedy ensemble", "scores": _scores(truth, mean)}
    wrong = {name: p.argmax(1) != truth for name, p in runs.items()}
    names = list(runs)
    return {
        "title": "Made clips, a demonstration",
        "made": "Drawn, not measured, by python -m benchmarks.report_page",
        "verdict": [
            f"About {100 * subject['scores']['accuracy'][0]:.0f} of 100 clips of new speakers would be labelled right.",
            "These predictions are made: the page shows what a report looks like, not what a network does.",
            "A cell of the confusion matrix opens its clips.",
        ],
        "method": ["Intervals are Wilson's, which take clips as independent.", "The calibration error has 15 bins."],
        "task": {"clips": clips, "classes": list(classes), "groups": len(np.unique(group)), "folds": FOLDS,
                 "sample_rate": RATE, "seconds": 1.0},
        "runs": [
            *(_complete(name, scores[name], fold, ~wrong[name], draw) for name in names),
            _incomplete(fold, ~wrong[names[1]], draw),
        ],
        "comparisons": [_comparison(names[a], names[b], wrong) for a, b in ((0, 1), (0, 2), (1, 2))],
        "ensemble": {
            "method": "Greedy selection with replacement, cross-fitted over folds.",
            "verdict": "The members, their weights and what they bring are made up.",
            "command": "python inference.py --ensemble weighted", "temperature": 1.08,
            "candidates": [{"name": "best single run", "scores": scores[names[0]]}, subject],
            "members": [{"run": name, "view": view, "weight": weight, "brings": brings}
                        for name, view, weight, brings in (
                            (names[0], "clip", 0.5, 0.006), (names[1], "50 ms later", 0.3, 0.002),
                            (names[2], "clip", 0.2, 0.0005))],
        },
        "subject": subject,
        "confusion": {"counts": counts, "order": _order(counts)},
        "per_class": [_class_row(index, counts) for index in range(len(classes))],
        "reliability": [
            {"confidence": confidence[part].mean(), "accuracy": _share(right[part]), "clips": len(part)}
            for part in np.array_split(np.argsort(confidence), 15)
        ],
        "coverage": {"points": _coverage(confidence, right), "target": 0.99, "at_target": at_target,
                     "note": "The threshold was chosen on the same clips."},
        "pairs": _pairs(counts),
        "groups": _weak(group, right),
        "factors": [
            _factor("level", "dB", draw.normal(-30, 9, clips) + 6 * right, right),
            _factor("duration", "s", draw.uniform(0.5, 1.0, clips), right),
            _factor("noise", "dB", draw.normal(25, 8, clips) + 3 * right, right),
        ],
        "duplicates": [{"clips": [0, 1], "note": "correlation 0.93"}],
        "clips": _listed(truth, mean, group, fold, classes, listed, sounds),
        "media_note": f"The first {sounds:,} clips have sound and picture.",
    }  # fmt: skip


def _predictions(truth: Ints, group: Ints, classes: Sequence[str], margin: float, draw: np.random.Generator) -> Floats:
    """(n, C) probabilities whose logits favour what was said, and a little what sounds like it."""
    n, size = len(truth), len(classes)
    place = {name: index for index, name in enumerate(classes)}
    favour = margin * np.eye(size)
    for a, b in ALIKE:
        if a in place and b in place:
            favour[place[a], place[b]] = favour[place[b], place[a]] = margin - 2.2
    said = np.where(np.arange(n) % 200 == 7, (truth * 7 + 3 * np.arange(n)) % size, truth)  # some labels are wrong
    clear = 1 - 0.5 * (group % 17 == 3)  # a few speakers are not
    logits = favour[said] * (clear * draw.uniform(0.75, 1.35, n))[:, None] + draw.normal(0, 1.0, (n, size))
    odds = np.exp(2.2 * (logits - logits.max(1, keepdims=True)))
    return odds / odds.sum(1, keepdims=True)


def _share(hits: NDArray[np.bool_]) -> list[float]:
    share = float(hits.mean()) if len(hits) else 0.0
    return [share, *wilson_interval(share, len(hits))]


def _scores(truth: Ints, p: Floats) -> dict[str, Any]:
    predicted, own = p.argmax(1), p[np.arange(len(truth)), truth]
    loss = -np.log(np.maximum(own, 1e-12))
    half = 1.96 * loss.std() / len(loss) ** 0.5
    bins = np.array_split(np.argsort(p.max(1)), 15)
    gaps = [abs(p.max(1)[part].mean() - (predicted == truth)[part].mean()) * len(part) for part in bins]
    return {
        "accuracy": _share(predicted == truth),
        "macro_f1": [macro_f1(truth, predicted, p.shape[1]), None, None],
        "log_loss": [loss.mean(), loss.mean() - half, loss.mean() + half],
        "top3": _share((p > own[:, None]).sum(1) < 3),
        "ece": [sum(gaps) / len(truth), None, None],
    }


def _complete(
    name: str, scores: dict[str, Any], fold: Ints, right: NDArray[np.bool_], draw: np.random.Generator
) -> dict[str, Any]:
    history = _history(scores["accuracy"][0], draw)
    return {"name": name, "status": "complete", "note": "", "command": None, "scores": scores,
            "folds": _folds(fold, right), "seconds": 4000.0, "history": history}  # fmt: skip


def _incomplete(fold: Ints, right: NDArray[np.bool_], draw: np.random.Generator) -> dict[str, Any]:
    return {
        "name": "efficientnet_b0-128x128",
        "status": "incomplete",
        "note": "Folds 2 to 4 are not trained.",
        "command": "python train.py -t 128 -m efficientnet_b0 -f 2,3,4",
        "scores": None,
        "folds": _folds(fold, right)[:2],
        "seconds": 1600.0,
        "history": _history(0.9, draw)[:2],
    }


def _folds(fold: Ints, right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    return [{"fold": k, "clips": int((fold == k).sum()), "accuracy": _share(right[fold == k])} for k in range(FOLDS)]


def _history(end: float, draw: np.random.Generator, epochs: int = 30) -> list[dict[str, Any]]:
    epoch = np.arange(1, epochs + 1)
    curves = []
    for fold in range(FOLDS):
        rise = 1 - np.exp(-epoch / 4)
        noise = draw.normal(0, 0.01, (3, epochs)) * (1.2 - rise)
        last = end + draw.normal(0, 0.008)
        curves.append(
            {
                "fold": fold,
                "epoch": epoch,
                "train_loss": 3.2 * (1 - rise) + 0.15 + noise[0],
                "valid_loss": 3.0 * (1 - rise) + 0.28 + 3 * noise[1],
                "valid_accuracy": last * rise + noise[2],
            }
        )
    return curves


def _comparison(a: str, b: str, wrong: dict[str, NDArray[np.bool_]]) -> dict[str, Any]:
    only_a, only_b = int((wrong[b] & ~wrong[a]).sum()), int((wrong[a] & ~wrong[b]).sum())
    n = len(wrong[a])
    difference, half = (only_a - only_b) / n, 1.96 * (only_a + only_b) ** 0.5 / n
    p = float(np.exp(-0.5 * (only_a - only_b) ** 2 / max(1, only_a + only_b)))
    return {"a": a, "b": b, "difference": [difference, difference - half, difference + half], "p": p,
            "only_a": only_a, "only_b": only_b}  # fmt: skip


def _order(counts: Ints) -> list[int]:
    """Each class followed by the one, of those left, that is most often confused with it."""
    both = counts + counts.T
    order = [0]
    while len(order) < len(counts):
        left = [index for index in range(len(counts)) if index not in order]
        order.append(max(left, key=lambda index: both[order[-1], index]))
    return order


def _class_row(index: int, counts: Ints) -> dict[str, Any]:
    given, taken, both = counts[index].sum(), counts[:, index].sum(), counts[index, index]
    f1 = 2 * both / max(1, given + taken)
    recall, precision = both / max(1, given), both / max(1, taken)
    return {"class": index, "clips": given, "precision": [precision, *wilson_interval(precision, taken)],
            "recall": [recall, *wilson_interval(recall, given)], "f1": [f1, *wilson_interval(f1, given)]}  # fmt: skip


def _coverage(confidence: Floats, right: NDArray[np.bool_]) -> list[list[float]]:
    kept = [(t, confidence >= t) for t in np.round(np.linspace(0, 1, 101), 2)]
    return [[t, k.mean(), right[k].mean() if k.any() else np.nan] for t, k in kept]


def _at_target(confidence: Floats, right: NDArray[np.bool_]) -> dict[str, Any] | None:
    for threshold, coverage, precision in _coverage(confidence, right):
        if precision >= 0.99:
            kept = confidence >= threshold
            return {"coverage": coverage, "threshold": threshold, "precision": _share(right[kept])}
    return None


def _pairs(counts: Ints) -> list[dict[str, int]]:
    pairs = [
        {"a": a, "b": b, "a_as_b": counts[a, b], "b_as_a": counts[b, a]} for a in range(len(counts)) for b in range(a)
    ]
    return sorted(pairs, key=lambda pair: -pair["a_as_b"] - pair["b_as_a"])[:8]


def _weak(group: Ints, right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    clips, errors = np.bincount(group), np.bincount(group, ~right)
    worst = np.argsort(-errors / np.maximum(clips, 1))[:25]
    shares = [(int(g), float(errors[g] / clips[g])) for g in worst]
    return [
        {"name": f"{g:08x}", "weak": i < 5, "clips": clips[g], "error": [e, *wilson_interval(e, clips[g])]}
        for i, (g, e) in enumerate(shares)
    ]


def _factor(name: str, unit: str, values: Floats, right: NDArray[np.bool_]) -> dict[str, Any]:
    parts = np.array_split(np.argsort(values), 5)
    bins = [
        {"label": f"{values[part].mean():.3g}", "clips": len(part), "error": _share(~right[part])} for part in parts
    ]
    return {"name": name, "unit": unit, "bins": bins}


def _listed(
    truth: Ints, p: Floats, group: Ints, fold: Ints, classes: Sequence[str], listed: int, sounds: int
) -> dict[str, Any]:
    own, predicted = p[np.arange(len(truth)), truth], p.argmax(1)
    ids = np.argsort(own)[:listed]
    top = np.argsort(-p[ids], axis=1)[:, :3]
    audio, mel = _media(truth[ids[:sounds]], classes)
    absent = [None] * (len(ids) - len(audio))
    kinds = [("suspected wrong label", own < 0.02), ("confident error", (predicted != truth) & (p.max(1) > 0.9)),
             ("near a tie", np.diff(np.sort(p, axis=1)[:, -2:])[:, 0] < 0.1)]  # fmt: skip
    return {
        "fname": [f"train/{classes[truth[i]]}/{group[i]:08x}_nohash_{i}.wav" for i in ids],
        "label": truth[ids], "predicted": predicted[ids], "confidence": p.max(1)[ids], "p_label": own[ids],
        "fold": fold[ids], "group": [f"{group[i]:08x}" for i in ids],
        "problems": [[name for name, found in kinds if found[i]] for i in ids],
        "seconds": np.ones(len(ids)),
        "top": [[[c, p[i, c]] for c in row] for i, row in zip(ids, top, strict=True)],
        "mel": mel + absent, "audio": audio + absent,
    }  # fmt: skip


def _media(labels: Ints, classes: Sequence[str]) -> tuple[list[str | None], list[str | None]]:
    """Sound and picture for each label: its word, as recorded, where ../shared/data has it, else a tone."""
    import soundfile
    import torch

    from dataset import LogMel

    log_mel = LogMel(FeatureOptions().resolve(RATE, RATE))
    waves = []
    for turn, label in enumerate(labels):
        recorded = sorted((ROOT.parent / "shared" / "data" / "gsc30_sample" / classes[label]).glob("*.flac"))
        if recorded:
            wave = soundfile.read(recorded[turn % len(recorded)], dtype="int16")[0]
        else:
            wave = (8000 * np.sin(np.arange(RATE) * (0.1 + 0.01 * label))).astype(np.int16)
        waves.append(wave[:RATE])
    padded = np.stack([np.pad(wave, (0, RATE - len(wave))) for wave in waves])
    mel = log_mel(torch.from_numpy(padded / np.float32(32768)))[:, 0].numpy()
    media = clip_media(waves, RATE, list(mel))
    return media.audio, media.mel


if __name__ == "__main__":
    main()
