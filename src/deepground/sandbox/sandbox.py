"""The sandbox: finds out whether this machine can isolate a program, and runs one.

The way of a run: `Limits` and folders -> `mounts` (what it sees) -> `seccomp` (what it may ask of the kernel) ->
bubblewrap -> `prlimit` (what each process may use) -> the program, watched by `supervisor`. Nothing runs where a part
of this is missing.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deepground.errors import SandboxError, SandboxUnavailableError
from deepground.sandbox import mounts
from deepground.sandbox.cgroups import Group, GroupParents, find_parents, make_group
from deepground.sandbox.limits import Limits, Result
from deepground.sandbox.seccomp import seccomp_program
from deepground.sandbox.supervisor import supervise

_OLDEST = (0, 8)
"""The first bubblewrap that can switch off further user namespaces."""
_UID = 1000
_IDENTITY = {
    "/etc/passwd": f"root:x:0:0:root:/:/bin/false\nuser:x:{_UID}:{_UID}:user:{mounts.HOME}:/bin/sh\n",
    "/etc/group": f"root:x:0:\nuser:x:{_UID}:\n",
    "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost sandbox\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """The means of isolation that this machine has."""

    bubblewrap: Path
    prlimit: Path
    filter: bytes = field(repr=False)
    """The system-call filter."""
    groups: GroupParents | None
    """Where control groups can be made; None: memory and processes are counted from outside."""

    def run(
        self,
        command: Sequence[str],
        *,
        workspace: Path | None = None,
        limits: Limits | None = None,
        stdin: str | bytes = b"",
        environment: Mapping[str, str] | None = None,
        writable: bool = True,
        read_only: Sequence[Path] = (),
        also_writable: Sequence[Path] = (),
        cancelled: threading.Event | None = None,
    ) -> Result:
        """Run a program to its end or to a limit; everything that it started has ended too on return.

        Args:
            command: program and arguments; no shell reads them.
            workspace: real path of the folder that it works in (`resolve_workspace`), at the same path inside;
                None: an empty folder of its own (/workspace), gone afterwards.
            limits: what it may use; else `Limits()`.
            stdin: given to it.
            environment: variables besides PATH, HOME, LANG and TMPDIR; nothing is inherited.
            writable: whether it may write to the workspace.
            read_only: more paths that it may read.
            also_writable: more folders that it may write to.
            cancelled: ends it when set.

        Raises:
            SandboxError: the sandbox could not be set up; the program did not run.
        """
        limits = limits or Limits()
        _check_command(command)
        folders = mounts.file_system(
            workspace, tmp_bytes=limits.disk_bytes, writable=writable, read_only=read_only, also_writable=also_writable
        )
        made = mounts.missing_mount_points(workspace) if workspace and writable else []
        group = _group(self.groups, limits)
        try:
            with _Descriptors() as descriptors:
                seccomp = descriptors.holding(self.filter)
                identity = _identity(descriptors)
                info, status = os.pipe()
                descriptors.add(status)
                arguments = [
                    str(self.bubblewrap), *_isolation(), *_variables(workspace, environment or {}), *identity, *folders,
                    "--seccomp", str(seccomp), "--json-status-fd", str(status), "--",
                    str(self.prlimit), *_rlimits(limits), "--", *command,
                ]  # fmt: skip
                return supervise(
                    arguments,
                    descriptors=descriptors.hand_over(),
                    info=info,
                    limits=limits,
                    stdin=stdin.encode() if isinstance(stdin, str) else stdin,
                    group=group,
                    grows=workspace if writable else None,
                    cancelled=cancelled,
                )
        finally:
            _clean(group, made)


def _check_command(command: Sequence[str]) -> None:
    """Refuse what no program can be started with.

    Raises:
        SandboxError: says why.
    """
    if not command:
        raise SandboxError("There is no command to run. Name a program.")
    if any("\0" in part for part in command):
        raise SandboxError("A command cannot hold NUL characters. Write the text to a file and pass its name.")


def _group(parents: GroupParents | None, limits: Limits) -> Group | None:
    if parents is None:
        return None
    return make_group(parents, memory_bytes=limits.memory_bytes, processes=limits.processes + 3)


def _clean(group: Group | None, made: Sequence[Path]) -> None:
    """Remove a run's control group, and mount points that were made in the workspace."""
    if group is not None:
        group.remove()
    for folder in made:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _identity(descriptors: _Descriptors) -> list[str]:
    """Arguments that give the sandbox users and host names of its own."""
    arguments: list[str] = []
    for path, text in _IDENTITY.items():
        arguments += ["--ro-bind-data", str(descriptors.holding(text.encode())), path]
    return arguments


def run(
    command: Sequence[str],
    *,
    workspace: Path | None = None,
    limits: Limits | None = None,
    stdin: str | bytes = b"",
    environment: Mapping[str, str] | None = None,
    cancelled: threading.Event | None = None,
) -> Result:
    """Run a program in this machine's sandbox: see `Sandbox.run`.

    Raises:
        SandboxUnavailableError: this machine cannot isolate programs; the text names the cure.
        SandboxError: the sandbox could not be set up; the program did not run.
    """
    return find_sandbox().run(
        command, workspace=workspace, limits=limits, stdin=stdin, environment=environment, cancelled=cancelled
    )


def available() -> str | None:
    """None if programs can be isolated here; else why not, with the cure."""
    try:
        find_sandbox()
    except SandboxUnavailableError as error:
        return str(error)
    return None


@functools.cache
def find_sandbox() -> Sandbox:
    """This machine's sandbox, tried out once.

    Raises:
        SandboxUnavailableError: a part is missing or does not work; the text names the cure.
    """
    if not sys.platform.startswith("linux"):
        raise SandboxUnavailableError(
            f"The sandbox needs Linux; this is {sys.platform}. Use a Linux machine or a virtual one."
        )
    program = seccomp_program(platform.machine())
    bubblewrap = _program("bwrap", "bubblewrap")
    prlimit = _program("prlimit", "util-linux")
    said = subprocess.run([bubblewrap, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    version = tuple(int(part) for part in re.findall(r"\d+", said)[:2])
    if version < _OLDEST:
        raise SandboxUnavailableError(
            f"The sandbox needs bubblewrap 0.8 or newer; {bubblewrap} is {said.strip() or 'of an unknown version'}. "
            "Install a newer one (Debian 12, Ubuntu 24.04 and later have it)."
        )
    sandbox = Sandbox(bubblewrap=bubblewrap, prlimit=prlimit, filter=program, groups=find_parents())
    try:
        result = sandbox.run(["/bin/sh", "-c", "echo inside"], limits=Limits(seconds=20))
    except SandboxError as error:
        raise SandboxUnavailableError(_cure(str(error))) from error
    if result.stdout != "inside\n":
        raise SandboxUnavailableError(_cure(f"a trial run gave exit code {result.exit}: {result.stderr.strip()}"))
    return sandbox


def _program(name: str, package: str) -> Path:
    # Profiles of AppArmor name the system's own path, and a folder in PATH may be anybody's: the system's comes first.
    for folder in ("/usr/bin", "/bin", "/usr/local/bin"):
        if os.access(path := Path(folder, name), os.X_OK):
            return path
    if found := shutil.which(name):
        return Path(found).resolve()
    raise SandboxUnavailableError(
        f"The sandbox needs the program {name}, which is not installed. On Debian or Ubuntu: sudo apt install {package}"
    )


def _cure(reason: str) -> str:
    def setting(name: str) -> str:
        path = Path("/proc/sys", name)
        return path.read_text().strip() if path.exists() else ""

    if setting("kernel/unprivileged_userns_clone") == "0":
        cure = "Allow user namespaces: sudo sysctl -w kernel.unprivileged_userns_clone=1"
    elif setting("user/max_user_namespaces") == "0":
        cure = "Allow user namespaces: sudo sysctl -w user.max_user_namespaces=10000"
    elif setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
        cure = (
            "Ubuntu's AppArmor forbids it; load the profile that allows bubblewrap: "
            "sudo apt install apparmor-profiles && "
            "sudo ln -s /usr/share/apparmor/extra-profiles/bwrap-userns-restrict /etc/apparmor.d/ && "
            "sudo systemctl reload apparmor"
        )
    else:
        cure = (
            "In a container, allow it to make user namespaces and to mount (Docker: --security-opt seccomp=unconfined "
            "--security-opt apparmor=unconfined --security-opt systempaths=unconfined)."
        )
    return f"The sandbox does not work here: {reason}. {cure}"


def _isolation() -> list[str]:
    return [
        "--unshare-all", "--unshare-user", "--disable-userns", "--new-session", "--die-with-parent", "--clearenv",
        "--cap-drop", "ALL", "--hostname", "sandbox", "--uid", str(_UID), "--gid", str(_UID),
    ]  # fmt: skip


def _variables(workspace: Path | None, more: Mapping[str, str]) -> Iterator[str]:
    folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    folders.insert(0, str(Path(sys.prefix).resolve() / "bin"))
    if workspace and (workspace / ".venv" / "bin" / "python").exists():
        folders.insert(0, str(workspace / ".venv" / "bin"))
    variables = {
        "PATH": ":".join(dict.fromkeys(folders)),
        "HOME": mounts.HOME,
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "USER": "user",
        "SHELL": "/bin/sh",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        **more,
    }
    for name, value in variables.items():
        yield from ("--setenv", name, value)


def _rlimits(limits: Limits) -> Iterator[str]:
    wanted = {
        "core": (resource.RLIMIT_CORE, 0),
        "data": (resource.RLIMIT_DATA, limits.memory_bytes),
        "fsize": (resource.RLIMIT_FSIZE, limits.file_bytes),
        "nofile": (resource.RLIMIT_NOFILE, limits.open_files),
        # The prlimit and the first process count too.
        "nproc": (resource.RLIMIT_NPROC, limits.processes + 3),
        "memlock": (resource.RLIMIT_MEMLOCK, 2**20),
        "msgqueue": (resource.RLIMIT_MSGQUEUE, 2**20),
    }
    if limits.cpu_seconds is not None:
        wanted["cpu"] = (resource.RLIMIT_CPU, limits.cpu_seconds)
    for name, (kind, value) in wanted.items():
        _, hard = resource.getrlimit(kind)
        yield f"--{name}={value if hard == resource.RLIM_INFINITY else min(value, hard)}"


class _Descriptors:
    """Descriptors for bubblewrap to inherit; closed unless they are handed over."""

    def __init__(self) -> None:
        self._open: list[int] = []

    def __enter__(self) -> _Descriptors:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self.hand_over():
            os.close(descriptor)

    def add(self, descriptor: int) -> None:
        """Take one over."""
        self._open.append(descriptor)

    def holding(self, data: bytes) -> int:
        """One that `data` can be read from."""
        descriptor = os.memfd_create("deepground-sandbox", os.MFD_CLOEXEC)
        self.add(descriptor)
        os.write(descriptor, data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def hand_over(self) -> list[int]:
        """All of them; closing is the receiver's business now."""
        given, self._open = self._open, []
        return given
