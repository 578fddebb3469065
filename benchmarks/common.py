"""What the benchmarks share: clocks, memory, stores to measure on. Importing this loads neither torch nor pandas."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from arg import PreprocessConfig
from preprocessing.pipeline import preprocess
from preprocessing.store import CLIP_COLUMNS, STORE_FORMAT, TEXT_COLUMNS
from system.paths import CLIPS, STORE, WAVES

if TYPE_CHECKING:
    import torch
    from pandas import DataFrame

    from dataset import Store

ROOT = Path(__file__).parents[1]
GSC12 = ROOT.parent / "shared" / "data" / "gsc12"
RATE = 16_000
WORDS = (
    *("bed", "bird", "cat", "dog", "down", "eight", "five", "four", "go", "happy", "house", "left", "marvin", "nine"),
    *("no", "off", "on", "one", "right", "seven", "sheila", "six", "stop", "three", "tree", "two", "up", "wow", "yes"),
    "zero",
)

# ---------------------------------------------------------------------------------------------------------- time


def timed(step: Callable[[], object], steps: int, device: torch.device, warm_up: int = 2) -> float:
    """Seconds that `steps` calls take."""
    for _ in range(warm_up):
        step()
    wait(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


# -------------------------------------------------------------------------------------------------------- memory


def memory(pid: int) -> NDArray[np.float64]:
    """Resident and anonymous memory of a process, MiB; what is not anonymous is pages of files."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # has ended
        return np.zeros(2)
    kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines) if "Rss" in name
           or name == "VmRSS"}  # fmt: skip
    return np.array([kib.get("VmRSS", 0), kib.get("RssAnon", 0)]) / 1024


def watched(command: list[str]) -> tuple[float, float, str]:
    """Run a program from the project's root: seconds, the most anonymous memory it had (MiB), what it printed."""
    start = time.perf_counter()
    program = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    peak = 0.0
    while program.poll() is None:  # prints less than a pipe holds
        peak = max(peak, memory(program.pid)[1])
        time.sleep(0.005)
    assert program.stdout is not None
    printed = program.stdout.read()
    if program.returncode:
        raise SystemExit(f"{' '.join(command)} failed\n{printed}")
    return time.perf_counter() - start, peak, printed


# -------------------------------------------------------------------------------------------------------- stores


def open_store(work: Path | None, data: Path | None, scratch: Path) -> Store:
    """The store in `work`; else a new one of `data`, else of gsc12 where it exists, else of made clips."""
    from dataset import Store

    if work:
        return Store.open(work)
    if root := data or (GSC12 if GSC12.is_dir() else None):
        preprocess(PreprocessConfig(root, scratch / "work"))
    else:
        make_store(scratch / "work", 2000, noise=True)
    return Store.open(scratch / "work")


def make_store(work: Path, clips: int, noise: bool = False, classes: int = len(WORDS), folds: int = 5) -> Path:
    """A store of one-second clips without the clips: white noise, or a hole in the file, which takes no space."""
    import pandas as pd

    work.mkdir(parents=True, exist_ok=True)
    number = np.arange(clips)
    word = pd.Series(WORDS[:classes]).take(number % classes).to_numpy(str).astype(object)
    speaker = np.array([f"{index * 2_654_435_761 % 2**32:08x}" for index in range(clips // 20 + 1)], object)[
        number // 20
    ]
    table = pd.DataFrame({name: "" if name in TEXT_COLUMNS else 0 for name in CLIP_COLUMNS}, index=number)
    table["label"], table["group"], table["split"] = word, speaker, "train"
    table["fname"] = "train/" + word + "/" + speaker + "_nohash_" + (number % 20).astype(str).astype(object) + ".wav"
    table["fold"], table["offset"], table["length"] = number // 20 % folds, number * RATE, RATE
    table = table.sort_values("fname")
    write_store(work, table, {"root": str(work / "data"), "classes": sorted(WORDS[:classes]), "folds": folds})
    with (work / WAVES).open("wb") as file:
        if noise:
            draw = np.random.default_rng(0)
            for _ in range(clips):
                file.write((3000 * draw.standard_normal(RATE, np.float32)).astype("<i2").tobytes())
        file.truncate(2 * RATE * clips)
    return work


def write_store(work: Path, table: DataFrame, facts: dict[str, Any]) -> None:
    """clips.csv and store.json; `facts` are those that differ from one-second clips for training alone."""
    table.to_csv(work / CLIPS, index=False, lineterminator="\n")
    common = {
        "format": STORE_FORMAT,
        "test_root": None,
        "sample_submission": None,
        "sample_rate": RATE,
        "clip_samples": RATE,
        "grouped": True,
        "counts": {split: int((table["split"] == split).sum()) for split in ("train", "test", "noise")},
        "options": {},
    }
    (work / STORE).write_text(json.dumps(common | facts))


# ------------------------------------------------------------------------------------------------------- machine


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(device: torch.device | None = None) -> str:
    """What it was measured on, in a few words."""
    import torch

    name, info = platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), name)
    gpu = f"{torch.cuda.get_device_name(device)}, " if device and device.type == "cuda" else ""
    return f"{gpu}{cores()} cores of {name}, torch {torch.__version__}"
