"""What a sandboxed program sees of the file system: the arguments for bubblewrap, in order.

Nothing of the machine is there unless it is named here: /usr and what the loader and TLS need of /etc, read-only; the
Python that runs deepground, read-only; a private /tmp, /proc and /dev; and the workspace, the only place that keeps
what is written. Files that other programs read and act on (`PROTECTED`) stay read-only inside the workspace too, so
that a program cannot reach out of the sandbox through a Git hook or an editor's settings.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from deepground.errors import SandboxError

PROTECTED = (".git", ".envrc", ".mcp.json", ".vscode", ".idea", ".claude", ".codex", ".cursor", ".deepground")
"""Names at the top of a workspace that nobody but the user may write. `.git` may not be made either."""

SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SYSTEM_FILES = (
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime",
    "/etc/mime.types", "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/ca-certificates", "/etc/pki/tls/certs",
    "/etc/java", "/etc/fonts", "/etc/magic", "/etc/services", "/etc/protocols",
)  # fmt: skip
_NO_WORKSPACE = (*SYSTEM_FOLDERS, "/boot", "/dev", "/etc", "/proc", "/run", "/sys")
_TOO_WIDE = ("/", "/home", "/mnt", "/media", "/root", "/srv", "/tmp", "/var", "/var/tmp", "/Users")

PRIVATE_WORKSPACE = Path("/workspace")
"""Where a program works that was given no folder; gone when it ends."""
HOME = "/tmp/home"


def resolve_workspace(folder: Path, *, keep_out: Iterable[Path] = ()) -> Path:
    """The real path of a workspace, if it is one that a program may be let loose on.

    Args:
        folder: what the user named.
        keep_out: folders (deepground's own settings and records) that must not lie inside it, nor it in them.

    Raises:
        SandboxError: it is missing, not a folder, or holds more than a task's files.
    """
    try:
        real = folder.expanduser().resolve(strict=True)
    except OSError as error:
        raise SandboxError(
            f"The workspace {folder} cannot be used: {error.strerror}. Name a folder that exists."
        ) from error
    if not real.is_dir():
        raise SandboxError(f"The workspace {real} is a file. Name the folder that it lies in.")
    if str(real) in _TOO_WIDE or real == Path.home().resolve():
        raise SandboxError(f"The workspace {real} holds far more than one task's files. Name the folder of the task.")
    if any(real.is_relative_to(system) for system in _NO_WORKSPACE):
        raise SandboxError(f"The workspace {real} belongs to the system. Copy the task's files elsewhere.")
    for other in (path.expanduser().resolve() for path in keep_out):
        if other.is_relative_to(real) or real.is_relative_to(other):
            raise SandboxError(f"The workspace {real} and deepground's own {other} overlap. Name another folder.")
    return real


def file_system(
    workspace: Path | None, *, tmp_bytes: int, writable: bool, read_only: Sequence[Path], also_writable: Sequence[Path]
) -> list[str]:
    """Bubblewrap's arguments for everything but the small files that `identity_files` makes.

    Raises:
        SandboxError: a protected name in the workspace is a symbolic link, or a path is missing.
    """
    # bubblewrap covers only those parts of /proc whose folder looks writable, which /proc/sys does not, though root may
    # write the files in it. Read-only as a whole, it keeps the kernel's settings from a program that root runs.
    mounts = [*_system(), "--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev"]
    mounts += ["--size", str(tmp_bytes), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    mounts += [
        "--perms",
        "1777",
        "--size",
        str(tmp_bytes),
        "--tmpfs",
        "/tmp",
        "--dir",
        HOME,
        "--symlink",
        "/tmp",
        "/var/tmp",
    ]
    for folder in python_folders():
        mounts += ["--ro-bind", str(folder), str(folder)]
    if workspace is None:
        mounts += ["--size", str(tmp_bytes), "--tmpfs", str(PRIVATE_WORKSPACE)]
    elif writable:
        mounts += ["--bind", str(workspace), str(workspace), *_protection(workspace)]
    else:
        mounts += ["--ro-bind", str(workspace), str(workspace)]
    for path in read_only:
        mounts += ["--ro-bind", str(path), str(path)]
    for path in also_writable:
        mounts += ["--bind", str(path), str(path)]
    return [*mounts, "--remount-ro", "/", "--chdir", str(workspace or PRIVATE_WORKSPACE)]


def python_folders() -> list[Path]:
    """Where the Python that runs deepground lives, outside the system's own folders."""
    folders = dict.fromkeys(Path(prefix).resolve() for prefix in (sys.base_prefix, sys.prefix))
    return [f for f in folders if not any(f.is_relative_to(system) for system in SYSTEM_FOLDERS)]


def own_folders() -> list[Path]:
    """Where deepground's own code runs from: a program must not change what runs outside the sandbox next."""
    return [*python_folders(), Path(__file__).resolve().parents[1]]


def missing_mount_points(workspace: Path) -> list[Path]:
    """Mount points that bubblewrap makes in the workspace and leaves behind; to be removed when they are empty."""
    git = workspace / ".git"
    return [] if os.path.lexists(git) else [git]


def _system() -> Iterator[str]:
    for name in SYSTEM_FOLDERS:
        path = Path(name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), name)
        elif path.is_dir():
            yield from ("--ro-bind", name, name)
    for name in _SYSTEM_FILES:
        if Path(name).exists():
            yield from ("--ro-bind", str(Path(name).resolve()), name)


def _protection(workspace: Path) -> Iterator[str]:
    for name in PROTECTED:
        path = workspace / name
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(mode):
            raise SandboxError(
                f"{path} is a symbolic link, which cannot be protected from the program. "
                "Replace it by what it points to."
            )
        yield from ("--ro-bind", str(path), str(path))
    for path in missing_mount_points(workspace):
        yield from ("--perms", "0555", "--tmpfs", str(path), "--remount-ro", str(path))
    for folder in own_folders():
        if folder.is_relative_to(workspace):
            yield from ("--ro-bind", str(folder), str(folder))
