"""On PYTHONPATH: dicomflow sees what Python offers on Windows, and POSIX's rules for open files are taken away.

What dicomflow's modules import of `os`, `sys`, `signal`, `socket` and `ctypes` lacks what Windows lacks; the standard
library and others see the machine as it is. An open file is neither renamed nor removed, a rename replaces nothing,
no folder is opened, and names have the characters that Windows knows, whoever asks.
"""

import builtins
import contextlib
import ctypes
import errno
import os
import signal
import socket
import sys
import types
from pathlib import Path
from typing import Any

_GONE = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
_LACKS = {
    "os": """
        fork forkpty sendfile preadv pwritev pread pwrite readv writev fdatasync posix_fallocate posix_fadvise nice
        O_DIRECTORY O_NOFOLLOW O_DIRECT O_CLOEXEC O_NONBLOCK O_PATH O_TMPFILE O_SYNC O_DSYNC statvfs fstatvfs sync
        geteuid getuid getgid getegid chown fchown lchown fchmod getpgid setsid killpg mkfifo mknod wait waitid WNOHANG
        sched_getaffinity sched_setaffinity getloadavg uname setxattr getxattr memfd_create copy_file_range eventfd
    """,
    "signal": "SIGKILL SIGHUP SIGUSR1 SIGUSR2 SIGSTOP SIGCONT SIGCHLD SIGPIPE SIGALRM alarm pause pthread_sigmask",
    "socket": """
        AF_UNIX SO_REUSEPORT SCM_RIGHTS MSG_DONTWAIT MSG_NOSIGNAL MSG_CMSG_CLOEXEC CMSG_LEN CMSG_SPACE send_fds recv_fds
        TCP_QUICKACK TCP_USER_TIMEOUT TCP_CORK
    """,
}
_NOT_FILES = "/dev/shm/"  # multiprocessing's own memory
_WRONG_IN_NAMES = frozenset('<>:"|?*')
_MOVE_REPLACES = 1
_open, _replace, _unlink = os.open, os.replace, os.unlink


class _Kernel32:
    def __init__(self, *_: object, **__: object) -> None:
        self.MoveFileExW = _Move()


class _Move:
    argtypes: object = None

    def __call__(self, path: str, target: str, flags: int) -> int:
        (_replace_file if flags & _MOVE_REPLACES else _rename_file)(path, target)
        return 1


def _check_closed(path: Any) -> None:
    named = str(Path(path).resolve())
    if named.startswith(_NOT_FILES):
        return
    for descriptor in Path("/proc/self/fd").iterdir():
        held = ""
        with contextlib.suppress(OSError):  # closed meanwhile
            held = str(descriptor.readlink())
        if held == named:
            raise PermissionError(errno.EACCES, "is open", str(path))


def _check_name(path: Any) -> None:
    name = Path(os.fsdecode(path)).name
    if _WRONG_IN_NAMES & set(name) or name.endswith((".", " ")):
        raise OSError(errno.EINVAL, "no name on Windows", str(path))


def _open_file(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
    if flags & os.O_CREAT:
        _check_name(path)
    if Path(path).is_dir():
        raise PermissionError(errno.EACCES, "is a folder", str(path))
    return _open(path, flags, *arguments, **named)


def _rename_file(path: Any, target: Any, **named: Any) -> None:
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "exists", str(target))
    _replace_file(path, target, **named)


def _replace_file(path: Any, target: Any, **named: Any) -> None:
    _check_name(target)
    _check_closed(path)
    _check_closed(target)
    _replace(path, target, **named)


def _remove_file(path: Any, **named: Any) -> None:
    if named.get("dir_fd") is None:
        _check_closed(path)
    _unlink(path, **named)


def _view(module: types.ModuleType, **added: object) -> types.ModuleType:
    """Return a module that has what Windows has; what is set in it stays in it."""
    lacks = _LACKS.get(module.__name__, "").split()
    view = types.ModuleType(module.__name__, module.__doc__)
    view.__dict__.update({name: value for name, value in vars(module).items() if name not in lacks} | added)
    return view


os.rename, os.replace, os.unlink, os.remove = _rename_file, _replace_file, _remove_file, _remove_file
for _name in ("sendmsg", "recvmsg", "recvmsg_into"):
    setattr(socket.socket, _name, property(lambda _: (_ for _ in ()).throw(AttributeError("not on Windows"))))
_VIEWS = {
    "os": _view(os, name="nt", open=_open_file, O_BINARY=0),
    "sys": _view(sys, platform="win32"),
    "signal": _view(signal, SIGBREAK=signal.SIGQUIT),
    "socket": _view(socket, SO_EXCLUSIVEADDRUSE=socket.SO_KEEPALIVE),
    "ctypes": _view(ctypes, WinDLL=_Kernel32, get_last_error=lambda: 0, WinError=lambda _: OSError(errno.EACCES, "")),
}
_import = builtins.__import__


def _import_as_there(
    name: str, spaces: Any = None, local: Any = None, fromlist: Any = (), level: int = 0
) -> types.ModuleType:
    asks = (spaces or {}).get("__name__", "")
    if level == 0 and (asks == "dicomflow" or asks.startswith("dicomflow.")):
        if name in _GONE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name in _VIEWS:
            return _VIEWS[name]
    return _import(name, spaces, local, fromlist, level)


builtins.__import__ = _import_as_there
