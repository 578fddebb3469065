"""What an interrupted run has decoded, so that the next one resumes there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preprocessing.decode import Audio, Key, digest_of
from preprocessing.store import map_waves
from system.files import replacing
from system.paths import JOURNAL, WAVES

if TYPE_CHECKING:
    from preprocessing.files import File


def resume_journal(work: Path, facts: Mapping[str, Any]) -> dict[Key, Audio]:
    """What the journal of a run that was killed says is in WAVES and is there, and whose `facts` were these.

    Without one, or with that of another data set or rate, a new journal is begun.
    """
    path, waves = work / JOURNAL, work / WAVES
    try:
        lines = path.read_text("ascii").splitlines()
        if not waves.exists() or not waves.stat().st_size or json.loads(lines[0]) != facts:
            raise ValueError("another data set")
    except (OSError, ValueError, IndexError):
        with replacing(path) as beside:
            beside.write_text(json.dumps(facts), "ascii")
        return {}
    samples = map_waves(waves)
    known = {}
    for line in lines[1:]:
        try:
            entries = json.loads(line)
        except ValueError:  # cut off when a run was killed
            continue
        for key, values in entries:
            audio = Audio(*values)
            if audio.digest == digest_of(samples[audio.offset : audio.offset + audio.length]):
                known[tuple(key)] = audio
    return known


def note_down(work: Path, chunk: Iterable[tuple[File, Audio]]) -> None:
    """Add to the journal what has just been written to WAVES."""
    entries = [(file.key, audio) for file, audio in chunk if audio.length]
    with (work / JOURNAL).open("a", encoding="ascii") as journal:
        journal.write("\n" + json.dumps(entries))  # first: the last line may be cut off
