"""Hostile audio files: mutated headers and bodies through the project's own decoding, which must survive each.

    python -m benchmarks.fuzz --files 20000 --seed 0

Small valid files of many kinds are damaged: bits flipped; sizes, rates and counts set to extremes; chunks, pages and
blocks reordered, repeated or dropped; cut, spliced with a file of another kind, and checksums of OGG pages made good
again so that the damage gets past them. Each goes through the decoding processes of preprocess.py and must become a
row or a rejection. Prints a table by kind and a JSON line: files, seconds, rows, rejections, crashes and hangs (both
are rejections of the file by preprocess.py, and failures here), the slowest file's seconds, the peak memory of a
decoding process and what it had before its first file. Exits with 1 where there was a crash, a hang, a file without a
result, or memory beyond the bound.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

import preprocessing.decode
import preprocessing.workers
from preprocessing.files import File

RATE = 16_000
HANG_SECONDS = 5.0
MEMORY_MIB = 256  # of a decoding process at most: the blocks, the longest file of the run, Python and its libraries
BATCH = 1000  # files on the disk at a time

Draw = np.random.Generator

# --------------------------------------------------------------------------------------------------- whole files


@cache
def whole_files() -> dict[str, bytes]:
    """A small valid file of each kind, by a name that ends in its suffix."""
    wave = 0.3 * np.sin(np.arange(2400) / 9) + 0.02 * np.random.default_rng(0).standard_normal(2400)
    stereo = np.stack([wave, wave[::-1]], 1)
    made: dict[str, bytes] = {}

    def add(name: str, samples: Any, rate: int = RATE, **options: str) -> None:
        made[name] = encoded(samples, rate, **options)

    for kind in ("PCM_16", "PCM_24", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "MS_ADPCM", "GSM610"):
        add(f"{kind.lower()}.wav", wave, format="WAV", subtype=kind)
    add("stereo.wav", stereo, 44_100, format="WAV", subtype="PCM_16")
    add("extensible.wav", stereo, format="WAVEX", subtype="PCM_24")
    add("rf64.wav", wave, format="RF64", subtype="PCM_16")
    add("w64.w64", wave, format="W64", subtype="PCM_16")
    add("aiff.aiff", wave, format="AIFF", subtype="PCM_16")
    add("au.au", wave, format="AU", subtype="PCM_16")
    add("caf.caf", wave, format="CAF", subtype="PCM_16")
    add("16.flac", wave, format="FLAC", subtype="PCM_16")
    add("24 stereo.flac", stereo, 48_000, format="FLAC", subtype="PCM_24")
    add("vorbis.ogg", wave, format="OGG", subtype="VORBIS")
    add("vorbis stereo.ogg", stereo, 44_100, format="OGG", subtype="VORBIS")
    add("opus.opus", wave, format="OGG", subtype="OPUS")
    add("mono.mp3", wave, format="MP3")
    add("stereo.mp3", stereo, 44_100, format="MP3")
    made["tagged.mp3"] = (
        b"ID3\x03\x00\x00\x00\x00\x02\x01TIT2\x00\x00\x00\x05\x00\x00\x00name".ljust(267, b"\0") + made["mono.mp3"]
    )
    riff, *chunks = riff_chunks(made["pcm_16.wav"])
    extra = [
        b"LIST" + struct.pack("<I", 26) + b"INFOIART" + struct.pack("<I", 13) + b"of a speaker\0\0",
        b"bext" + struct.pack("<I", 602) + bytes(602),
        b"cue " + struct.pack("<II", 28, 1) + struct.pack("<II4sIII", 1, 0, b"data", 0, 0, 5),
        b"smpl" + struct.pack("<I9I", 60, *[0] * 7, 1, 0) + struct.pack("<6I", 0, 0, 1, 9, 0, 0),
        b"odd " + struct.pack("<I", 3) + b"abc\0",
        b"inst" + struct.pack("<I", 7) + bytes(8),
    ]
    made["chunks.wav"] = riff + b"".join([*extra[:3], *chunks, *extra[3:]])
    return made


def encoded(samples: Any, rate: int, **options: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **options)
    return file.getvalue()


def riff_chunks(data: bytes) -> list[bytes]:
    """The 12 bytes of a RIFF or AIFF header, then each chunk."""
    order, parts, at = "<" if data[:4] != b"FORM" else ">", [data[:12]], 12
    while at + 8 <= len(data):
        size = struct.unpack_from(f"{order}I", data, at + 4)[0]
        end = min(len(data), at + 8 + size + size % 2)
        parts.append(data[at:end])
        at = end
    return [*parts, data[at:]]


def ogg_pages(data: bytes) -> list[bytes]:
    return [b"OggS" + page for page in data.split(b"OggS")[1:]]


def flac_blocks(data: bytes) -> list[bytes]:
    """fLaC, then each metadata block, then the frames."""
    parts, at, last = [data[:4]], 4, False
    while not last and at + 4 <= len(data):
        last = bool(data[at] & 0x80)
        end = at + 4 + int.from_bytes(data[at + 1 : at + 4], "big")
        parts.append(data[at:end])
        at = end
    return [*parts, data[at:]]


def parts_of(data: bytes, draw: Draw) -> list[bytes]:
    """The units that a file of its kind is made of; of others, pieces cut anywhere."""
    if data[:4] in (b"RIFF", b"RF64", b"FORM"):
        return riff_chunks(data)
    if data[:4] == b"OggS":
        return ogg_pages(data)
    if data[:4] == b"fLaC":
        return flac_blocks(data)
    cuts = sorted(draw.integers(0, len(data) + 1, 6))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@cache
def ogg_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)
        table.append(value & 0xFFFFFFFF)
    return table


def with_checksums(data: bytes) -> bytes:
    """An OGG file with the checksum of every page made right."""
    pages, table = [], ogg_table()
    for page in ogg_pages(data):
        page = page[:22].ljust(22, b"\0") + bytes(4) + page[26:]
        crc = 0
        for byte in page:
            crc = (crc << 8) & 0xFFFFFFFF ^ table[crc >> 24 ^ byte]
        pages.append(page[:22] + struct.pack("<I", crc) + page[26:])
    return b"".join(pages)


# ----------------------------------------------------------------------------------------------------- mutations

EXTREMES = (0, 1, 2, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0xFFFF_FFFE)


def place(data: bytes, draw: Draw) -> int:
    """An offset, mostly in the header."""
    return int(draw.integers(0, max(1, len(data) if draw.random() < 0.3 else min(len(data), 120))))


def flip(data: bytes, draw: Draw) -> bytes:
    changed = bytearray(data)
    for _ in range(int(draw.integers(1, 17)) if data else 0):
        changed[place(data, draw)] ^= 1 << int(draw.integers(8))
    return bytes(changed)


def overwrite(data: bytes, draw: Draw) -> bytes:
    """A size, a count or a rate becomes an extreme one or any."""
    width, order = int(draw.choice([1, 2, 4, 8])), str(draw.choice(["little", "big"]))
    value = int(draw.choice(EXTREMES)) if draw.random() < 0.8 else int(draw.integers(1 << 62))
    if width == 8 and draw.random() < 0.5:
        value = (1 << 64) - 1 - value  # negative
    at = place(data, draw) // 2 * 2
    return data[:at] + (value % (1 << 8 * width)).to_bytes(width, order) + data[at + width :]  # type: ignore[arg-type]


def field(data: bytes, draw: Draw) -> bytes:
    """One that decides much: channels, rate, bits, frames or size of a WAV or a FLAC; else any."""
    fields = {
        b"RIFF": [(4, 4), (16, 4), (20, 2), (22, 2), (24, 4), (28, 4), (32, 2), (34, 2), (36, 2), (40, 4)],
        b"fLaC": [(5, 3), (8, 2), (10, 2), (12, 3), (15, 3), (18, 4), (22, 4), (42, 4)],
        b"OggS": [(5, 1), (6, 8), (14, 4), (18, 4), (26, 1), (27, 1), (39, 1), (40, 4), (44, 4), (48, 4), (56, 1)],
        b"FORM": [(4, 4), (16, 4), (20, 2), (22, 4), (26, 2), (28, 8)],
    }.get(data[:4])
    if not fields:
        return overwrite(data, draw)
    at, width = fields[draw.integers(len(fields))]
    value = int(draw.choice(EXTREMES)) if draw.random() < 0.7 else int(draw.integers(1 << 62))
    order = "little" if data[:4] in (b"RIFF", b"OggS") else "big"
    return data[:at] + (value % (1 << 8 * width)).to_bytes(width, order) + data[at + width :]  # type: ignore[arg-type]


def cut(data: bytes, draw: Draw) -> bytes:
    return data[: int(draw.integers(0, len(data) + 1))]


def drop(data: bytes, draw: Draw) -> bytes:
    start = place(data, draw)
    return data[:start] + data[start + int(draw.integers(1, 64)) :]


def insert(data: bytes, draw: Draw) -> bytes:
    start = place(data, draw)
    return data[:start] + draw.bytes(int(draw.integers(1, 64))) + data[start:]


def reorder(data: bytes, draw: Draw) -> bytes:
    """Chunks, pages or blocks shuffled, one repeated, one dropped."""
    parts = parts_of(data, draw)
    how = draw.random()
    if len(parts) < 2:
        return data
    first, second = sorted(draw.choice(len(parts), 2, replace=False))
    if how < 0.4:
        parts[first], parts[second] = parts[second], parts[first]
    elif how < 0.7:
        parts[first:first] = [parts[second]] * int(draw.integers(1, 20))
    else:
        del parts[second]
    return b"".join(parts)


def splice(data: bytes, draw: Draw) -> bytes:
    """The beginning of this file and the end of another."""
    other = list(whole_files().values())[draw.integers(len(whole_files()))]
    return data[: place(data, draw)] + other[place(other, draw) :]


MUTATIONS: Sequence[Callable[[bytes, Draw], bytes]] = (
    *(flip, overwrite, overwrite, field, field, cut, drop, insert, reorder, splice),
)


def mutated(seed: int, index: int) -> tuple[str, bytes]:
    """The name of the kind and the content of file `index`, which depend only on both numbers."""
    draw = np.random.default_rng([seed, index])
    names = list(whole_files())
    name = names[draw.integers(len(names))]
    data = whole_files()[name]
    for _ in range(int(draw.choice([1, 1, 2, 3, 4]))):
        data = MUTATIONS[int(draw.integers(len(MUTATIONS)))](data, draw)
    if data[:4] == b"OggS" and draw.random() < 0.8:
        data = with_checksums(data)
    return name, data


# ------------------------------------------------------------------------------------------------------- the run


class Outcome(NamedTuple):
    """What became of a file; memory is the peak of its decoding process so far."""

    reason: str  # '' for a row
    samples: int
    seconds: float
    peak_kib: int


def decode(paths: list[str], scratch: Path) -> list[Outcome]:
    """What preprocess.py does with each file, in a decoding process."""
    outcomes = []
    for path in paths:
        start = time.monotonic()
        source = [File("", "", 0, 0, "", path)]
        written, [audio], _ = preprocessing.decode._read_chunk(source, RATE, scratch, patience=HANG_SECONDS)
        seconds = time.monotonic() - start
        if written.stat().st_size != 2 * audio.length or bool(audio.reason) == bool(audio.length):
            raise AssertionError(f"{path}: {audio} with {written.stat().st_size} bytes of samples")
        written.unlink()
        outcomes.append(Outcome(audio.reason, audio.length, seconds, peak_kib()))
    return outcomes


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def idle(paths: list[str]) -> int:
    """The memory, KiB, of a decoding process that has opened nothing; what it will open is loaded."""
    import soundfile  # noqa: F401
    import soxr  # noqa: F401

    import preprocessing.audit  # noqa: F401

    return peak_kib()


def fuzz(files: int, seed: int) -> Iterator[tuple[str, int, Outcome]]:
    """The kind, the index and the outcome of each file, in order."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        read = partial(decode, scratch=scratch)
        for first in range(0, files, BATCH):
            batch = scratch / "batch"
            batch.mkdir()
            kinds, paths = [], []
            for index in range(first, min(files, first + BATCH)):
                kind, data = mutated(seed, index)
                path = batch / f"{index}.{kind.rpartition('.')[2]}"
                path.write_bytes(data)
                kinds.append(kind)
                paths.append(str(path))
            chunks = [
                paths[at : at + preprocessing.decode.CHUNK_FILES]
                for at in range(0, len(paths), preprocessing.decode.CHUNK_FILES)
            ]
            results = preprocessing.workers.isolated(read, chunks, lambda path, reason: [Outcome(reason, 0, 0.0, 0)])
            outcomes = [outcome for result in results for outcome in result]
            yield from zip(kinds, range(first, first + len(kinds)), outcomes, strict=True)
            shutil.rmtree(batch)


def failure(outcome: Outcome) -> str:
    """crash, hang or ''."""
    if outcome.reason.startswith("crashes"):
        return "crash"
    return "hang" if outcome.reason.startswith("hangs") or outcome.seconds > HANG_SECONDS else ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write the files that crash or hang a decoder there")
    options = parser.parse_args()
    base = next(preprocessing.workers.isolated(idle, [[""]], lambda path, reason: 0))
    start = time.monotonic()
    rows, rejections, failures = Counter[str](), Counter[str](), Counter[str]()
    slowest = peak = longest = 0.0
    for kind, index, outcome in fuzz(options.files, options.seed):
        (rejections if outcome.reason else rows)[kind] += 1
        slowest, peak = max(slowest, outcome.seconds), max(peak, outcome.peak_kib)
        longest = max(longest, outcome.samples / RATE)
        if failed := failure(outcome):
            failures[failed] += 1
            print(f"file {index}, of a {kind}: {outcome.reason or f'{outcome.seconds:.1f} s'}", file=sys.stderr)
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{options.seed}-{index}-{kind}").write_bytes(mutated(options.seed, index)[1])
        if index % 5000 == 4999:
            print(f"{index + 1:,} files, {time.monotonic() - start:.0f} s", file=sys.stderr)

    print(f"{'a damaged':<20}{'rows':>8}{'rejected':>10}")
    for kind in whole_files():
        print(f"{kind:<20}{rows[kind]:>8,}{rejections[kind]:>10,}")
    result = {
        "files": options.files,
        "seconds": round(time.monotonic() - start, 1),
        "rows": rows.total(),
        "rejections": rejections.total(),
        "crashes": failures["crash"],
        "hangs": failures["hang"],
        "slowest_file_seconds": round(slowest, 3),
        "longest_clip_seconds": round(longest, 1),
        "peak_mib": round(peak / 1024, 1),
        "idle_mib": round(base / 1024, 1),
    }
    print(json.dumps(result))
    lost = options.files - rows.total() - rejections.total()
    if failures or lost or peak / 1024 > MEMORY_MIB:
        sys.exit(1)


if __name__ == "__main__":
    from benchmarks.fuzz import main as imported  # so that processes find what they do: see util.main_module_hidden

    imported()
