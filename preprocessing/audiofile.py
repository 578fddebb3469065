"""One audio file, opened and read in blocks; nothing else opens audio files."""

from __future__ import annotations

import os
import re
from typing import Any, Self

from numpy.typing import NDArray

from preprocessing.files import UNSAFE_NAME


class UnusableError(ValueError):
    """A file that can be read but not used; the text is the reason."""


class AudioFile:
    """A file that libsndfile reads."""

    def __init__(self, path: str) -> None:
        import soundfile

        self._file: Any = soundfile.SoundFile(path)
        self.rate: int = self._file.samplerate  # Hz
        self.channels: int = self._file.channels
        self.frames: int = self._file.frames  # as its header says; of an MP3, an estimate
        self.int16: bool = self._file.subtype == "PCM_16"  # nothing is lost when it is read as that
        # After each read soundfile would seek, and an MP3's decoder begin anew in the middle; in a pipe it does not.
        self._file.seekable = lambda: False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def seek(self, frame: int) -> int:
        """Go to `frame` from the beginning; returns where the file then is, before it where it cannot be sought."""
        try:
            return self._file.seek(min(frame, self.frames))
        except RuntimeError:  # soundfile's: some codecs cannot
            return 0

    def read(self, frames: int, kind: str) -> NDArray[Any]:
        """The next `frames`, (frames, channels), int16 or float32 of full scale 1; fewer are the last ones."""
        return self._file.read(frames, kind, always_2d=True)

    def truncated(self, frames: int) -> bool:
        """Whether `frames`, all that could be read, are fewer than the header promises."""
        return frames < self.frames - self.rate // 20 or _mended(self._file.extra_info)


def open_audio(path: str) -> AudioFile:
    """The file at `path`; UnusableError for a name or a kind of file that is not opened. soundfile's errors pass."""
    if UNSAFE_NAME.search(path):
        raise UnusableError("its name holds a control character or is not UTF-8")
    if not os.path.isfile(path):  # noqa: PTH113 (a Path for each of 60,000 files is slow)
        raise UnusableError("not a file: a dangling link, a pipe or a device")  # opening a pipe would wait for ever
    return AudioFile(path)


def _mended(log: str) -> bool:
    """Whether libsndfile's log of a file tells of a size (of a WAV or an AIFF) that is more than there is.

    What was written to a pipe has the largest size there is, and is whole.
    """
    return "(should be" in log and any(
        int(actual) < int(promised) < 0x7FFF_0000
        for promised, actual in re.findall(r": (\d+) \(should be (\d+)\)", log)
    )
