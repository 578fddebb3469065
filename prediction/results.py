"""The probabilities of an inference under way, kept in a folder so that an interrupted run can resume."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from system.files import remove_leftovers, replacing
from system.locks import claimed
from system.paths import LOCK

KEY = "key.json"  # what the rows depend on beside the clips
ROWS = "rows.f32"  # (clips, classes) little-endian float32
MARKS = "marks"  # a hash for each batch of rows
FLOAT32 = "float32"  # is there where half precision was given up on the first batch
SAMPLES = "decoded"  # folder for samples on their way to the network
BAD = -1.0  # fills the row of a clip that cannot be read
MARK_BYTES = 16


class Results:
    """Rows of probabilities in a folder that exists until the submission is written.

    A batch's mark is a hash of its clips and of its rows. It tells good rows from those that a crash left incomplete
    and from those of other clips.
    """

    def __init__(
        self,
        folder: Path,
        key: Mapping[str, Any],
        classes: int,
        clips: Iterable[tuple[int, bytes]],
        keep_bad: bool = True,
    ) -> None:
        """Begin, or keep what an earlier run with the same `key` left.

        "threads" in the key is the number to begin with. An earlier run's stays, since it can change the last bits.
        `clips` are the number and the identity of each batch's. The leading batches that are complete and of these
        clips are kept; without `keep_bad`, only those before the first clip that could not be read.
        """
        self.folder, self.classes = folder, classes
        self.batches = 0  # complete, in order
        self.rows = 0  # in them
        self.bad: list[int] = []  # clips that could not be read
        plain = json.loads(json.dumps(key))
        try:
            old = dict(json.loads((folder / KEY).read_text("utf-8")))
        except (OSError, ValueError, TypeError):  # missing or damaged
            old = {}
        self.threads: int | None = plain.pop("threads", None)
        threads = old.pop("threads", self.threads)
        self.begun_with_other = [name for name in old if old[name] != plain.get(name)]
        if old == plain:
            self.threads = threads
        else:
            self._clear()
            with replacing(folder / KEY) as beside:
                text = json.dumps(plain | {"threads": self.threads}, indent=1) + "\n"
                beside.write_text(text, "utf-8", newline="\n")
        if self._keep(clips, keep_bad):
            self.begun_with_other = ["clips"]

    def _keep(self, clips: Iterable[tuple[int, bytes]], keep_bad: bool) -> bool:
        """Cut off the rows that do not count; returns whether that is all there were."""
        end = 0
        with (self.folder / ROWS).open("ab+") as rows, (self.folder / MARKS).open("ab+") as marks:
            found = marks.tell() > 0
            rows.seek(0)
            marks.seek(0)
            for count, identity in clips:
                content = rows.read(4 * self.classes * count)
                if marks.read(MARK_BYTES) != _mark(identity, content):
                    break
                values = np.frombuffer(content, "<f4").reshape(count, self.classes)
                if not keep_bad and (values == BAD).any():
                    break
                end = rows.tell()
                self._count(values)
            rows.truncate(end)
            marks.truncate(MARK_BYTES * self.batches)
        return found and not self.batches

    @property
    def float32(self) -> bool:
        """Whether half precision was given up."""
        return (self.folder / FLOAT32).exists()

    def give_up_half(self) -> None:
        (self.folder / FLOAT32).touch()

    def append(self, batches: Iterable[tuple[bytes, NDArray[np.float32]]]) -> Iterator[None]:
        """Add each batch's clips and rows as they are asked for."""
        with (self.folder / ROWS).open("ab") as rows, (self.folder / MARKS).open("ab") as marks:
            for clips, values in batches:
                content = values.astype("<f4").tobytes()
                rows.write(content)
                rows.flush()
                marks.write(_mark(clips, content))
                marks.flush()
                self._count(values)
                yield

    def _count(self, values: NDArray[np.float32]) -> None:
        """Take note of another batch's rows."""
        self.bad += (self.rows + np.flatnonzero(values[:, 0] == BAD)).tolist()
        self.batches += 1
        self.rows += len(values)

    def read(self, index: NDArray[np.int64], fill: NDArray[np.float32]) -> NDArray[np.float32]:
        """The rows at `index`, (n, classes); `fill`, (classes,), where a clip could not be read or has no row."""
        rows = np.full((len(index), self.classes), BAD, np.float32)
        if self.rows:  # else there is nothing to map
            there = index < self.rows
            rows[there] = np.memmap(self.folder / ROWS, "<f4", "r", shape=(self.rows, self.classes))[index[there]]
        rows[rows[:, 0] == BAD] = fill
        return rows

    def remove(self) -> None:
        self._clear()
        self.rows = 0

    def _clear(self) -> None:
        """Remove what is ours, the key first: without it nothing else counts."""
        for name in (KEY, ROWS, MARKS, FLOAT32):
            (self.folder / name).unlink(missing_ok=True)
        remove_leftovers(self.folder / KEY)
        shutil.rmtree(self.folder / SAMPLES, ignore_errors=True)


def _mark(clips: bytes, content: bytes) -> bytes:
    return hashlib.blake2b(len(clips).to_bytes(8, "little") + clips + content, digest_size=MARK_BYTES).digest()


@contextlib.contextmanager
def partial_results(
    output: Path, key: Mapping[str, Any], classes: int, clips: Iterable[tuple[int, bytes]], keep_bad: bool
) -> Iterator[Results]:
    """The `Results` on their way to `output`, in a folder beside it that no other run writes to.

    The folder stays where the body fails, unless it holds no rows. UserError where another run has it.
    """
    folder = output.with_name(f"{output.name}.partial")
    taken = f"{folder}: {output.name} is being written", "wait for it, or name another with -o"
    try:
        with claimed(folder / LOCK, *taken):
            results = Results(folder, key, classes, clips, keep_bad)
            if results.begun_with_other:
                print(f"{folder}: begun with other {', '.join(results.begun_with_other)}; starting over")
            try:
                yield results
            finally:
                if not results.rows:
                    results.remove()
    finally:
        with contextlib.suppress(OSError):  # it holds rows, or somebody else's files
            folder.rmdir()
