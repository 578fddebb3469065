"""Speed and memory of preprocess.py, audit included, against reading and decoding the files with soundfile alone.

    python -m benchmarks.preprocess --clips 60000

Writes the clips to a scratch folder: real ones, each take in another pitch, level and noise, else made ones. Then, in
turn: soundfile alone in as many processes as there are cores, and the whole of preprocess.py on an empty work folder,
both as programs of their own; at last preprocess.py on the unchanged data set. Prints a table and a JSON line: seconds
by the clock and of all cores' time (medians over the rounds), the ratio of the speeds by both, which differ where other
programs run, and the peak memory of all processes together: resident, and the part of it that is not pages of files,
which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmarks.common import GSC12, RATE, ROOT, cores, memory

TRAIN = GSC12 / "train"
PART = 500  # clips that a process writes or reads at a time


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preprocess", description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=60_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="of both in turn")
    parser.add_argument("--suffix", choices=("flac", "wav"), default="flac")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where to write; default: the system's")
    parser.add_argument("--alone", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)  # the program compared with
    options = parser.parse_args()
    if options.alone:
        read_all(Path(options.alone[0]))
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        root = Path(scratch) / "data"
        write_clips(root, options.clips, options.suffix)
        report(options.clips, compare(root, Path(scratch), options.rounds))


# ------------------------------------------------------------------------------------------------------ the clips


def write_clips(root: Path, count: int, suffix: str) -> None:
    """`count` clips, no two alike, as <word>/<speaker>_nohash_<take>.<suffix>."""
    real = sorted(TRAIN.glob("*/*.flac")) if TRAIN.is_dir() else []
    names = [path.relative_to(TRAIN) for path in real] or [
        Path(f"word{n % 30}") / f"{n // 60:04x}_nohash_{n // 30 % 2}.wav" for n in range(5400)
    ]
    jobs = []
    for index in range(count):
        take, source = divmod(index, len(names))
        speaker, _, number = names[source].stem.partition("_nohash_")
        # Each repetition is another speaker: at another pitch it sounds like one, and folds have as many to share out.
        target = root / names[source].parent / f"{speaker}{take:02x}_nohash_{number}.{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        jobs.append((real[source] if real else None, target, index))
    parts = [jobs[start : start + PART] for start in range(0, count, PART)]
    with ProcessPoolExecutor(cores()) as pool:
        for done, _ in enumerate(pool.map(write_part, parts)):
            if done % 20 == 0:
                print(f"writing: {done * PART:,} of {count:,} clips", file=sys.stderr)


def write_part(jobs: Sequence[tuple[Path | None, Path, int]]) -> None:
    for source, target, seed in jobs:
        draw = np.random.default_rng(seed)
        wave = soundfile.read(source)[0] if source else made(draw)
        speed = draw.uniform(0.85, 1.15)
        wave = np.interp(np.arange(0, len(wave) - 1, speed), np.arange(len(wave)), wave)[:RATE]
        wave = wave * draw.uniform(0.4, 1.0) + 0.001 * draw.standard_normal(len(wave))
        soundfile.write(target, np.pad(wave, (0, RATE - len(wave))).clip(-1, 1), RATE, "PCM_16")


def made(draw: np.random.Generator) -> NDArray[np.float64]:
    """A second with some syllables of noise in it."""
    seconds = np.arange(RATE) / RATE
    wave = np.zeros(RATE)
    for _ in range(3):
        envelope = np.exp(-(((seconds - draw.uniform(0.2, 0.8)) / 0.05) ** 2))
        voice = np.sign(np.sin(2 * np.pi * draw.uniform(90, 300) * seconds)) + draw.standard_normal(RATE)
        wave += 0.1 * envelope * voice
    return wave


# ------------------------------------------------------------------------------------------------ the comparison


def compare(root: Path, scratch: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each program in each round, and MiB of memory."""
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        alone = [sys.executable, "-m", "benchmarks.preprocess", "--alone", str(root)]
        work = scratch / f"work{number}"
        whole = [sys.executable, "preprocess.py", "-i", str(root), "-w", str(work)]
        for name, command in (("alone", alone), ("preprocess", whole), ("again", whole)):
            for what, value in run(command).items():
                found[f"{name}_{what}"].append(round(value, 2))
        print(f"round {number + 1}: {json.dumps(found)}", file=sys.stderr)
    return found


def run(command: list[str]) -> dict[str, float]:
    """Seconds that a program takes, by the clock and of all cores; the most memory (MiB) of it and its children."""
    start = time.perf_counter()
    program = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    peak, cpu = np.zeros(2), dict[int, float]()
    while program.poll() is None:
        processes = list(family(program.pid))
        peak = np.maximum(peak, sum((memory(pid) for pid in processes), np.zeros(2)))
        cpu |= {pid: seconds for pid in processes if (seconds := processor_seconds(pid))}
        time.sleep(0.02)
    seconds = time.perf_counter() - start
    if program.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return {"seconds": seconds, "cpu": sum(cpu.values()), "resident": float(peak[0]), "anonymous": float(peak[1])}


def processor_seconds(pid: int) -> float:
    """What a process has used so far, all its threads; 0 where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # has ended
            continue
        for child in children:
            yield from family(int(child))


def read_all(root: Path) -> None:
    """What preprocess.py is compared with: every file read and decoded, and nothing else."""
    paths = [entry.path for folder in os.scandir(root) for entry in os.scandir(folder)]
    parts = [paths[start : start + PART] for start in range(0, len(paths), PART)]
    with ProcessPoolExecutor(cores()) as pool:
        samples = sum(pool.map(read_part, parts))
    print(f"{samples:,} samples")


def read_part(paths: list[str]) -> int:
    return sum(len(soundfile.read(path, dtype="int16")[0]) for path in paths)


def report(clips: int, found: dict[str, list[float]]) -> None:
    mid = {name: median(values) for name, values in found.items()}
    rows = [
        (name, f"{mid[f'{key}_seconds']:.1f} s", f"{mid[f'{key}_cpu']:.1f} s", f"{mid[f'{key}_resident']:,.0f} MiB",
         f"{mid[f'{key}_anonymous']:,.0f} MiB")
        for name, key in (("soundfile alone", "alone"), ("preprocess.py", "preprocess"), ("the second run", "again"))
    ]  # fmt: skip
    ratio = {
        what: median(a / p for a, p in zip(found[f"alone_{what}"], found[f"preprocess_{what}"], strict=True))
        for what in ("seconds", "cpu")
    }
    print(f"{clips:,} clips, {cores()} cores")
    for row in [("", "clock", "all cores", "memory", "without files"), *rows]:
        print(f"{row[0]:<18}" + "".join(f"{cell:>15}" for cell in row[1:]))
    print(f"{'ratio of speeds':<18}{ratio['seconds']:>15.2f}{ratio['cpu']:>15.2f}")
    print(json.dumps({"clips": clips, "cores": cores(), "ratio": ratio, **found}))


if __name__ == "__main__":
    main()
