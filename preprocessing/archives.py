"""Download published data sets and unpack them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from system.console import progress
from system.errors import UserError
from system.locks import locked

ARCHIVES = "http://download.tensorflow.org/data"  # of Google Speech Commands (CC BY 4.0)
GROWTH = 20  # of an archive when it is unpacked; clips grow by half or so
HEADER_BYTES = 1 << 20  # of a member of an archive, at most; also what a small one may grow by
PATIENCE_SECONDS = 8.0  # for a server to answer, or to go on sending


def download(name: str, folder: Path, base: str = ARCHIVES) -> None:
    """Fetch the archive `base`/`name`.tar.gz and unpack it to `folder`, unless that holds something already.

    The folder appears when it is complete: both steps work beside it. UserError where the server cannot be reached,
    sends something else or too little, or where the archive holds what does not belong into a folder.
    """
    import shutil
    import tempfile

    folder = folder.absolute()
    with locked(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir() and any(folder.iterdir()):
            print(f"{folder} is there: nothing downloaded")
            return
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _fetch(f"{base}/{name}.tar.gz", scratch / "archive")
            _unpack(scratch / "archive", scratch / "data")
            if folder.is_dir():
                folder.rmdir()
            (scratch / "data").rename(folder)
        finally:
            shutil.rmtree(scratch)


def _fetch(url: str, path: Path) -> None:
    import http.client
    import urllib.error
    import urllib.request

    print(f"downloading {url}", file=sys.stderr)
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer, path.open("wb") as out:
            size = int(answer.headers.get("Content-Length") or -1)
            blocks = iter(lambda: answer.read(1 << 20), b"")
            for block in progress(blocks, -(-size >> 20) if size >= 0 else 0, "downloading (MiB)"):
                out.write(block)
            have = out.tell()
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}: the server answers {error.code} {error.reason}") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"{url}: cannot be fetched ({reason}); fetch and unpack it elsewhere, and give -i") from None
    if size >= 0 and have != size:
        raise UserError(f"{url}: only {have:,} of {size:,} bytes came; run this again")


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a .tar.gz to `folder`, which is made; UserError where it holds what no archive of clips does."""
    import gzip
    import tarfile
    import zlib

    class Bounded(gzip.GzipFile):
        """Does not fill the memory where a header says that it is itself that long."""

        def read(self, size: int | None = -1) -> bytes:
            if size is None or not 0 <= size <= HEADER_BYTES:
                raise UserError(f"the archive has a header of {size or 0:,} bytes: not unpacked")
            return super().read(size)

    print("unpacking", file=sys.stderr)
    folder.mkdir()
    left = GROWTH * archive.stat().st_size + HEADER_BYTES
    try:
        with Bounded(archive) as unzipped, tarfile.open(fileobj=unzipped, mode="r:") as tar:
            for member in tar:
                if not (member.isfile() or member.isdir()):
                    raise UserError(f"the archive holds {member.name!r}, neither a file nor a folder: not unpacked")
                if not Path(os.path.normpath(folder / member.name)).is_relative_to(folder):
                    raise UserError(f"the archive holds {member.name!r}, which leaves the folder: not unpacked")
                left -= member.size + tarfile.BLOCKSIZE
                if left < 0:
                    raise UserError(f"the archive grows over {GROWTH} times at {member.name!r}, as no audio does: "
                                    "not unpacked")  # fmt: skip
                tar.extract(member, folder, set_attrs=False, filter="data")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"the archive cannot be unpacked ({error})") from None
