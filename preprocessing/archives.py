"""Download published data sets and unpack them."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from system.errors import UserError, first_line
from system.locks import locked

ARCHIVES = "http://download.tensorflow.org/data"  # of Google Speech Commands (CC BY 4.0)
HASHES = {  # SHA-256, as torchaudio and TensorFlow Datasets publish them
    "speech_commands_v0.01": "743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",
    "speech_commands_v0.02": "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
}
GROWTH = 20  # of an archive when it is unpacked; clips grow by half or so
PATIENCE_SECONDS = 8.0  # for a server to answer, or to send more


def download(name: str, folder: Path, base: str = ARCHIVES, hashes: Mapping[str, str] = HASHES) -> None:
    """Fetch the archive `base`/`name`.tar.gz and unpack it to `folder`, unless that holds something already.

    The folder appears when it is complete: both steps work beside it. UserError where the server cannot be reached or
    sends another file than the published one.
    """
    folder = folder.absolute()
    with locked(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir() and any(folder.iterdir()):
            print(f"{folder} is there: nothing downloaded")
            return
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            archive = _fetch(f"{base}/{name}.tar.gz", hashes[name], Path(scratch))
            _unpack(archive, Path(scratch) / "data")
            if folder.is_dir():
                folder.rmdir()
            (Path(scratch) / "data").rename(folder)


def _fetch(url: str, sha256: str, folder: Path) -> Path:
    import pooch
    from requests import HTTPError

    print(f"downloading {url}", file=sys.stderr)
    pooch.get_logger().setLevel("WARNING")
    fetch = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=1 << 20, timeout=PATIENCE_SECONDS)
    try:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", "archive", folder, downloader=fetch))
    except HTTPError as error:
        raise UserError(f"{url}: the server answers {first_line(error)}") from None
    except ValueError:  # the hash
        raise UserError(f"{url}: what came is not the published file; run this again, or fetch it elsewhere") from None
    except OSError as error:
        why = first_line(error)
        raise UserError(f"{url}: cannot be fetched ({why}); fetch and unpack it elsewhere, and give -i") from None


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a .tar.gz to `folder`, which is made; UserError where something in it belongs elsewhere or has no end."""
    import tarfile
    import zlib

    print("unpacking", file=sys.stderr)
    folder.mkdir()
    left = GROWTH * archive.stat().st_size + (1 << 20)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                left -= member.size + tarfile.BLOCKSIZE
                if left < 0:
                    raise UserError(f"the archive grows over {GROWTH} times at {member.name!r}, as no audio does: "
                                    "not unpacked")  # fmt: skip
                tar.extract(member, folder, set_attrs=False, filter="data")
    except tarfile.FilterError as error:
        name = error.tarinfo.name
        raise UserError(f"the archive holds {name!r}, which is no file or folder inside it: not unpacked") from None
    except (tarfile.TarError, zlib.error, EOFError, OSError, KeyError) as error:
        raise UserError(f"the archive cannot be unpacked ({first_line(error)})") from None
