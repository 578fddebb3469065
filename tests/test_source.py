"""The forms in which a data set comes: lists beside the data, labels in names, manifests, archives from a server."""

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import preprocess
import preprocessing.archives
import preprocessing.scan
from arg import PreprocessConfig, parse_preprocess
from system.errors import UserError

# No file is opened by what is tested here, so that any content does.


def touch(root: Path, names: str) -> Path:
    for name in names.split():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def scan(root: Path, **options: Any) -> tuple[list[tuple[str, ...]], str]:
    """(split, fname, label, group, reason) of each file, and the notes."""
    data = preprocessing.scan.scan(PreprocessConfig(root, **options))
    return [(f.split, f.fname, f.label, f.group, f.reason) for f in data.files], "\n".join(data.notes)


def test_a_test_list_makes_a_labelled_test_set(tmp_path: Path) -> None:
    root = touch(tmp_path, "no/a.wav no/b.wav yes/a.wav yes/b.wav yes/c.wav")
    (root / "testing_list.txt").write_text("no/b.wav\r\n./yes/b.wav\nyes/gone.wav\n\n")
    (root / "validation_list.txt").write_text("yes/c.wav\n")
    files, notes = scan(root)
    assert files == [
        ("train", "no/a.wav", "no", "", ""),
        ("train", "yes/a.wav", "yes", "", ""),
        ("train", "yes/c.wav", "yes", "", ""),
        ("test", "no/b.wav", "no", "", ""),
        ("test", "yes/b.wav", "yes", "", ""),
    ]
    assert "names what is not there: 1 clip (yes/gone.wav)" in notes
    assert "validation_list.txt: its 1 clips stay in training" in notes


def test_a_test_folder_goes_before_a_test_list(tmp_path: Path) -> None:
    root = touch(tmp_path, "train/audio/no/a.wav train/audio/no/b.wav train/audio/yes/a.wav test/audio/x.wav")
    (root / "train" / "testing_list.txt").write_text("no/b.wav")  # as a Kaggle competition has it
    files, notes = scan(root)
    assert [file[0] for file in files] == ["train"] * 3 + ["test"]
    assert "testing_list.txt: its 1 clips stay in training, as there is a test/ beside" in notes
    (root / "test" / "audio" / "x.wav").unlink()
    (root / "test" / "audio").rmdir()
    (root / "test").rmdir()
    assert [file[:2] for file in scan(root)[0]][-1] == ("test", "train/audio/no/b.wav")


def test_labels_and_groups_in_names(tmp_path: Path) -> None:
    root = touch(tmp_path, "7_ann_0.wav 7_bob_0.wav 8_ann_0.wav deep/8_bob_1.wav README.wav")
    files, _ = scan(root, label_pattern=r"(?P<label>\d)_[a-z]+_\d", group_pattern=r"_(?P<group>[a-z]+)_")
    assert files == [
        ("train", "7_ann_0.wav", "7", "ann", ""),
        ("train", "7_bob_0.wav", "7", "bob", ""),
        ("train", "8_ann_0.wav", "8", "ann", ""),
        ("train", "README.wav", "", "", "no label: --label-pattern does not match its name"),
        ("train", "deep/8_bob_1.wav", "8", "bob", ""),
    ]


def test_a_flat_train_folder_beside_a_flat_test_folder(tmp_path: Path) -> None:
    root = touch(tmp_path, "train/no_0.wav train/yes_0.wav test/yes_1.wav test/clip_1.wav")
    files, _ = scan(root, label_pattern=r"^(?P<label>[a-z]+)_\d")
    assert [file[:3] for file in files] == [
        ("train", "train/no_0.wav", "no"),
        ("train", "train/yes_0.wav", "yes"),
        ("test", "clip_1.wav", ""),
        ("test", "yes_1.wav", "yes"),
    ]


def test_noise_of_another_folder_beside_that_of_the_data_set(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "train/no/a.wav train/yes/a.wav train/_background_noise_/a.wav noise/a.wav")
    street = touch(tmp_path / "street", "a.wav no/a.wav deep/er/a.FLAC LICENSE")
    alone, _ = scan(root)
    files, notes = scan(root, noise=street)
    more = [("noise", str(street / name), "", "", "") for name in ("a.wav", "deep/er/a.FLAC", "no/a.wav")]
    assert sorted(files) == sorted([*alone, *more])
    assert f"ignored in {street}: 1 files (1 without suffix)" in notes
    assert "not used, as there is a train/ beside: 1 folder (noise)" in notes

    files, notes = scan(root, noise=root / "noise")
    assert sorted(files) == sorted([*alone, ("noise", str(root / "noise" / "a.wav"), "", "", "")])
    assert "not used" not in notes
    for again in (root / "train" / "_background_noise_", tmp_path / "link"):  # what is there already counts once
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(root / "train" / "_background_noise_")
        assert scan(root, noise=again)[0] == alone


def test_no_clip_is_noise(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "no/a.wav yes/a.wav hum/a.wav _hum/a.wav")
    assert [file[:2] for file in scan(root, noise=root / "_hum")[0]][-1] == ("noise", str(root / "_hum" / "a.wav"))
    (tmp_path / "link").symlink_to(root / "hum")
    for folder in (root, tmp_path, root / "hum", tmp_path / "link"):
        with pytest.raises(UserError, match=r"--noise .*/a.wav in it is a train clip; keep noise outside"):
            scan(root, noise=folder)
    touch(tmp_path / "split", "train/no/a.wav train/yes/a.wav test/a.wav")
    with pytest.raises(UserError, match=r"a\.wav in it is a test clip"):
        scan(tmp_path / "split", noise=tmp_path / "split" / "test")
    manifest = tmp_path / "all.csv"
    manifest.write_text("path,label,split\nno/a.wav,no,\nyes/a.wav,yes,\n_hum/a.wav,,noise\n")
    assert len(scan(root, noise=root / "hum", manifest=manifest)[0]) == 4
    assert len(scan(root, noise=root / "_hum", manifest=manifest)[0]) == 3
    with pytest.raises(UserError, match=r"no/a\.wav in it is a train clip"):
        scan(root, noise=root / "no", manifest=manifest)


def test_a_noise_folder_that_is_missing_or_empty(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "no/a.wav yes/a.wav")
    with pytest.raises(UserError, match=r"--noise .*gone: no such folder; give another folder, or -i without"):
        scan(root, noise=tmp_path / "gone")
    touch(tmp_path / "texts", "about.txt")
    with pytest.raises(UserError, match=r"--noise .*texts: no audio file found \(.*\.wav .*\); give another folder"):
        scan(root, noise=tmp_path / "texts")


def test_speakers_in_names_unless_none_are_wanted(tmp_path: Path) -> None:
    root = touch(tmp_path, "no/ann_nohash_0.wav yes/ann_nohash_0.wav")
    assert [file[3] for file in scan(root)[0]] == ["ann", "ann"]
    assert [file[3] for file in scan(root, group="none")[0]] == ["", ""]


def test_a_manifest_beside_or_apart_from_the_clips(tmp_path: Path) -> None:
    touch(tmp_path / "audio", "a.wav b.wav c.wav")
    manifest = tmp_path / "meta.csv"
    manifest.write_text("filename;category;target;Speaker ID;subset\na.wav;no;0;x;\nb.wav;yes;1;;\nc.wav;no;0;y;test\n")
    files, notes = scan(tmp_path / "audio", manifest=manifest)
    assert files == [
        ("train", "a.wav", "no", "x", ""),
        ("train", "b.wav", "yes", "", ""),
        ("test", "c.wav", "no", "y", ""),
    ]
    assert "path=filename, label=category, group=Speaker ID, split=subset" in notes
    (tmp_path / "audio" / "meta.csv").write_text(manifest.read_text())
    assert parse_preprocess(["--manifest", str(tmp_path / "audio" / "meta.csv")]).input_path == tmp_path / "audio"


def test_columns_by_option(tmp_path: Path) -> None:
    root = touch(tmp_path, "a.wav b.wav")
    manifest = root / "meta.csv"
    manifest.write_text("path,label,what is it,who\nnone,x,no,1\nnone,x,yes,2\n")
    manifest.write_text(manifest.read_text().replace("none", "a.wav", 1).replace("none", "b.wav", 1))
    config = parse_preprocess(["--manifest", str(manifest), "--columns", "label=what is it", "group=who"])
    assert [(f.label, f.group) for f in preprocessing.scan.scan(config).files] == [("no", "1"), ("yes", "2")]
    with pytest.raises(UserError, match="no column 'gone'; it has path, label, what is it, who"):
        preprocessing.scan.scan(PreprocessConfig(root, manifest=manifest, columns=(("fold", "gone"),)))
    files, _ = scan(root, manifest=manifest, label_pattern=r"(?P<label>[ab])\.wav")
    assert [file[2] for file in files] == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "give the data set: -i DIR, --manifest CSV or --download NAME"),
        ("-i x --label-pattern (?P<word>.)", "mark the label in it as"),
        ("-i x --group-pattern (", "--group-pattern .: missing"),
        ("-i x --group-pattern (?P<group>.) --group none", "give one"),
        ("-i x --columns path=a", "give the --manifest that has them"),
        ("--manifest x --columns path", "use ROLE=NAME"),
        ("--manifest x --columns word=a", "--columns word=...: use path, label, group, fold, split"),
        ("--manifest x --download speech_commands_v0.01", "give one"),
    ],
)
def test_options_that_do_not_fit(options: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_preprocess(options.split())


# ------------------------------------------------------------------------------------------------------ archives


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


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (member("../evil.wav"), "no file or folder inside"),
        (member("no/../../evil.wav"), "no file or folder inside"),
        (member("no/link.wav", tarfile.SYMTYPE, "/etc/passwd"), "no file or folder inside"),
        (member("no/link.wav", tarfile.LNKTYPE, "../../x"), "no file or folder inside"),
        (member("no/device.wav", tarfile.CHRTYPE), "no file or folder inside"),
        (member("no/pipe.wav", tarfile.FIFOTYPE), "no file or folder inside"),
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
