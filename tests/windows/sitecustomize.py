"""As on Windows: with this folder in PYTHONPATH, a process and those that it starts lack what Windows lacks.

The project's modules, and filelock, get modules without the calls that Windows does not have; the libraries keep them,
since on Linux they have no others. For all of a process: no fork, no hard link, no other name or removal for a file
that is open or mapped, text in cp1252 with \\r\\n unless the caller says otherwise.
"""

import builtins
import contextlib
import errno
import io
import mmap
import multiprocessing
import multiprocessing.context
import os
import sys
import types
from pathlib import Path

ROOT = str(Path(__file__).parents[2])
MISSING_MODULES = {"fcntl", "resource", "termios", "pwd", "grp", "pty", "syslog"}
MISSING = {
    "os": """fork forkpty setpgid getpgid getpgrp setsid killpg sched_getaffinity sched_setaffinity sched_yield sysconf
        confstr statvfs fstatvfs getuid geteuid getgid getegid getloadavg uname nice wait wait3 wait4 pread pwrite
        preadv posix_fadvise posix_fallocate sendfile fchmod fchown chown lchown mkfifo mknod O_CLOEXEC O_DIRECTORY
        O_NONBLOCK pipe2 getpriority setpriority fdatasync sync openpty""",
    "signal": """SIGALRM SIGKILL SIGHUP SIGUSR1 SIGUSR2 SIGPIPE SIGCHLD SIGSTOP SIGCONT SIGQUIT alarm setitimer
        getitimer ITIMER_REAL pthread_sigmask pthread_kill sigwait pause""",
    "ctypes": "",
}
original_import, original_open, os_open = builtins.__import__, io.open, os.open


def open_folder(path, *args, **options):
    if Path(path).is_dir():
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return os_open(path, *args, **options)


def load_library(name, *args, **options):
    import ctypes

    if name is None:
        raise TypeError("expected a string")
    return ctypes.CDLL(name, *args, **options)


def stripped(name):
    """The module without what Windows lacks."""
    module, missing = original_import(name), MISSING[name].split()

    class Stripped(types.ModuleType):
        def __getattr__(self, attribute):
            if attribute in missing:
                raise AttributeError(f"module {name!r} has no attribute {attribute!r} on Windows")
            return getattr(module, attribute)

    return Stripped(name)


modules = {name: stripped(name) for name in MISSING}
modules["os"].name, modules["os"].open = "nt", open_folder
modules["ctypes"].CDLL = load_library


def import_as_there(name, globals=None, locals=None, fromlist=(), level=0):
    importer = globals or {}
    ours = str(importer.get("__file__")).startswith(ROOT) and "site-packages" not in str(importer.get("__file__"))
    if level == 0 and (ours or str(importer.get("__name__")).startswith("filelock.")):
        if name in MISSING_MODULES:
            raise ModuleNotFoundError(f"No module named {name!r} on Windows", name=name)
        if ours and name in modules:
            return modules[name]
    return original_import(name, globals, locals, fromlist, level)


def open_text(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *args, **options):
    if "b" not in mode:
        encoding = encoding or "cp1252"
        newline = "\r\n" if newline is None and mode != "r" else newline
    return original_open(file, mode, buffering, encoding, errors, newline, *args, **options)


class Mapped(mmap.mmap):
    @property
    def madvise(self):
        raise AttributeError("madvise")


def refuse_open(path):
    """Windows gives no other name or content to a file that is open or mapped, and does not remove it."""
    path = os.path.realpath(path)
    maps = original_open("/proc/self/maps", encoding="utf-8", errors="replace").read()
    held = {line.split(maxsplit=5)[5].strip() for line in maps.splitlines() if len(line.split(maxsplit=5)) == 6}
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the folder itself
            held.add(str(link.readlink()))
    if path in held:
        raise PermissionError(errno.EACCES, "The process cannot access the file, it is in use", path)


def guarded(call):
    def replacement(path, *args, **options):
        refuse_open(path)
        if args:
            refuse_open(args[0])
        return call(path, *args, **options)

    return replacement


def no_link(*args, **options):
    raise OSError(errno.EPERM, "no hard links")


builtins.__import__ = import_as_there
builtins.open = io.open = open_text
mmap.mmap = Mapped
os.replace, os.rename, os.unlink, os.remove = map(guarded, (os.replace, os.rename, os.unlink, os.remove))
os.link = no_link
os.linesep = "\r\n"
for method in ("fork", "forkserver"):
    del multiprocessing.context._concrete_contexts[method]
multiprocessing.get_all_start_methods = lambda: ["spawn"]
multiprocessing.set_start_method("spawn")
sys.windows_emulated = True
