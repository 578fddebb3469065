"""Archives from a server: published, complete, and inside their folder."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import tracemalloc
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import preprocess
import preprocessing.archives
import preprocessing.pipeline
import preprocessing.scan
import preprocessing.store
from arg import parse_preprocess
from system.errors import UserError


class Server(ThreadingHTTPServer):
    daemon_threads = True
    body: bytes
    promised: int  # bytes
    requests: int


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        if self.path != "/speech_commands_v0.01.tar.gz":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.promised))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server(("127.0.0.1", 0), Handler)
    server.requests = 0
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def serve(server: Server, *members: tarfile.TarInfo | str, promised: int = 0) -> str:
    """Have the server send an archive of these members; returns where it is."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for member in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            if isinstance(member, str):
                info.size = len(member)
            tar.addfile(info, io.BytesIO(info.name.encode()))
    server.body = packed.getvalue()
    server.promised = promised or len(server.body)
    return f"http://127.0.0.1:{server.server_address[1]}"


def fetch(server: Server, folder: Path, base: str) -> None:
    """Fetch what the server has, as if its hash were published."""
    published = {"speech_commands_v0.01": hashlib.sha256(server.body).hexdigest()}
    preprocessing.archives.download("speech_commands_v0.01", folder, base, published)


def test_an_archive_is_fetched_once(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = serve(server, "./no/a.wav", "./yes/b.wav", "./testing_list.txt")
    folder = tmp_path / "new" / "data"
    fetch(server, folder, base)
    assert (folder / "no" / "a.wav").read_text() == "./no/a.wav"
    assert sorted(path.name for path in folder.iterdir()) == ["no", "testing_list.txt", "yes"]
    assert not [path for path in folder.parent.iterdir() if path.is_dir() and path != folder]
    fetch(server, folder, base)
    assert "is there: nothing downloaded" in capsys.readouterr().out
    assert server.requests == 1


def test_the_folder_may_be_there_and_empty(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path, serve(server, "no/a.wav"))
    assert (tmp_path / "no" / "a.wav").exists()


def special(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (special("../evil.wav"), "no file or folder inside"),
        (special("no/../../evil.wav"), "no file or folder inside"),
        (special("no/link.wav", tarfile.SYMTYPE, "/etc/passwd"), "no file or folder inside"),
        (special("no/link.wav", tarfile.LNKTYPE, "../../x"), "no file or folder inside"),
        (special("no/device.wav", tarfile.CHRTYPE), "no file or folder inside"),
        (special("no/pipe.wav", tarfile.FIFOTYPE), "no file or folder inside"),
    ],
)
def test_an_archive_stays_in_its_folder(server: Server, tmp_path: Path, bad: tarfile.TarInfo, message: str) -> None:
    folder = tmp_path / "deep" / "data"
    with pytest.raises(UserError, match=message):
        fetch(server, folder, serve(server, "no/a.wav", bad, "yes/b.wav"))
    assert [path.name for path in tmp_path.rglob("*")] in (["deep", ".data.lock"],)  # nothing but the lock


def test_what_a_server_can_do_wrong(server: Server, tmp_path: Path) -> None:
    base = serve(server, "no/a.wav")
    serve(server, "no/a.wav", promised=len(server.body) + 10)
    with pytest.raises(UserError, match=r"tar\.gz: cannot be fetched \(.*IncompleteRead"):
        fetch(server, tmp_path / "data", base)
    server.promised = len(server.body) // 2
    with pytest.raises(UserError, match=r"tar\.gz: what came is not the published file"):
        fetch(server, tmp_path / "data", base)
    server.body = b"<html>please log in</html>"
    server.promised = len(server.body)
    with pytest.raises(UserError, match="cannot be unpacked"):
        fetch(server, tmp_path / "data", base)
    with pytest.raises(UserError, match=r"tar\.gz: what came is not the published file"):
        preprocessing.archives.download("speech_commands_v0.01", tmp_path / "data", base)
    with pytest.raises(UserError, match="the server answers 404"):
        preprocessing.archives.download("speech_commands_v0.02", tmp_path / "data", base)
    assert not (tmp_path / "data").exists()


def test_no_network_is_one_line_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(
        preprocessing.archives, "download", partial(preprocessing.archives.download, base="http://127.0.0.1:9/data")
    )  # none listens
    data = tmp_path / "data"
    assert preprocess.main(["--download", "speech_commands_v0.02", "-i", str(data), "-w", str(tmp_path / "work")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: http://127.0.0.1:9/data/speech_commands_v0.02.tar.gz: cannot be fetched")
    assert not data.exists()
    assert parse_preprocess(["--download", "speech_commands_v0.02"]).input_path == Path("speech_commands_v0.02")


def packed(path: Path, *members: tuple[tarfile.TarInfo, bytes], **options: Any) -> Path:
    with tarfile.open(path, "w:gz", **options) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def member(name: str, content: bytes = b"sound", kind: bytes = tarfile.REGTYPE, target: str = "") -> Any:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content) if kind == tarfile.REGTYPE else 0, kind, target
    return info, content


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([member("../out.wav")], "no file or folder"),
        ([member("no/../../out.wav")], "no file or folder"),
        ([member("..")], "no file or folder"),
        (
            [member("no/link", kind=tarfile.SYMTYPE, target="{outside}"), member("no/link/out.wav")],
            "no file or folder",
        ),
        (
            [member("no/link", kind=tarfile.SYMTYPE, target="../.."), member("no/link/out.wav")],
            "no file or folder",
        ),
        ([member("no/a.wav", kind=tarfile.LNKTYPE, target="{outside}/secret")], "no file or folder"),
        ([member("no/a.wav", kind=tarfile.LNKTYPE, target="../../secret")], "no file or folder"),
        ([member("no/a.wav", kind=tarfile.CHRTYPE)], "no file or folder"),
        ([member("no/a.wav", kind=tarfile.BLKTYPE)], "no file or folder"),
        ([member("no/a.wav", kind=tarfile.FIFOTYPE)], "no file or folder"),
        ([member("no", b""), member("no/a.wav")], "cannot be unpacked"),  # a file, then a folder of that name
    ],
)
def test_an_archive_cannot_reach_out_of_its_folder(tmp_path: Path, bad: list[Any], message: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    for info, _ in bad:
        info.name, info.linkname = (text.replace("{outside}", str(outside)) for text in (info.name, info.linkname))
    archive = packed(tmp_path / "archive", member("yes/good.wav"), *bad)
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match=message):
        preprocessing.archives._unpack(archive, tmp_path / "in" / "data")
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert {path.name for path in tmp_path.iterdir()} == {"outside", "archive", "in"}
    inside = {path.relative_to(tmp_path / "in" / "data").as_posix() for path in (tmp_path / "in" / "data").rglob("*")}
    assert inside <= {"yes", "yes/good.wav", "no"}


def test_names_that_only_look_odd_stay_in_the_folder(tmp_path: Path) -> None:
    names = ["./no/a.wav", "no/./b.wav", "no/..d.wav", "no/-rf", "no/=1.wav"]
    preprocessing.archives._unpack(packed(tmp_path / "archive", *map(member, names)), tmp_path / "data")
    found = {path.relative_to(tmp_path / "data").as_posix() for path in (tmp_path / "data").rglob("*.wav")}
    assert found == {"no/a.wav", "no/b.wav", "no/..d.wav", "no/=1.wav"}


def test_an_absolute_name_is_one_in_the_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "out.wav"
    preprocessing.archives._unpack(packed(tmp_path / "archive", member(str(outside))), tmp_path / "data")
    assert not outside.exists()
    assert (tmp_path / "data" / str(outside)[1:]).exists()


@pytest.mark.parametrize("how", ["one large file", "many empty files"])
def test_an_archive_that_grows_without_end_is_not_unpacked(tmp_path: Path, how: str) -> None:
    if how == "one large file":
        members, message = [member("no/a.wav", bytes(40 << 20))], "grows over 20 times at 'no/a.wav'"
    else:
        members, message = [member(f"no/{n:04}.wav", b"") for n in range(3000)], "grows over 20 times"
    archive = packed(tmp_path / "archive", *members, format=tarfile.GNU_FORMAT)
    tracemalloc.start()
    with pytest.raises(UserError, match=message):
        preprocessing.archives._unpack(archive, tmp_path / "data")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
    assert sum(path.stat().st_size for path in (tmp_path / "data").rglob("*")) < 1 << 20
