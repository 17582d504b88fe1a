"""Processes, kernel interfaces, environment and network: what a sandboxed program cannot reach."""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from deepground.errors import SandboxUnavailableError
from deepground.sandbox import Limits, Sandbox
from deepground.sandbox.seccomp import _REFUSED, seccomp_program
from sandbox.conftest import RunPython

SYSCALL = """
import ctypes, sys, errno
libc = ctypes.CDLL(None, use_errno=True)
for number in sys.argv[1:]:
    ctypes.set_errno(0)
    libc.syscall(int(number), 0, 0, 0, 0, 0, 0)
    print(errno.errorcode.get(ctypes.get_errno()))
"""
CONNECT = """
import socket, sys
kind, family, host, port = sys.argv[1:]
address = (host, int(port)) if family != "unix" else ("\\0" + host[1:] if host[0] == "@" else host)
try:
    s = socket.socket({"inet": socket.AF_INET, "inet6": socket.AF_INET6, "unix": socket.AF_UNIX}[family],
                      {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[kind])
    s.settimeout(3)
    s.connect(address)
    s.send(b"out")
    print("sent")
except OSError as error:
    print("refused", error)
"""


class TestProcesses:
    def test_privileges_cannot_be_gained(self, shell: RunPython) -> None:
        status = shell("cat /proc/self/status; sudo -n true; su -c true; echo $?").stdout
        assert "NoNewPrivs:\t1" in status
        assert "CapEff:\t0000000000000000" in status
        assert "CapBnd:\t0000000000000000" in status
        assert status.splitlines()[-1] != "0"

    def test_only_its_own_processes_exist(self, shell: RunPython) -> None:
        seen = [line for line in shell("ls /proc").stdout.split() if line.isdigit()]
        assert len(seen) < 8
        assert shell(f"kill -9 {os.getpid()}; kill -0 {os.getpid()}").exit != 0

    def test_first_process_tells_nothing_of_outside(self, run_python: RunPython) -> None:
        os.environ["DEEPGROUND_TEST_SECRET"] = "hunter2"
        try:
            code = """
import os
for path in ("/proc/1/environ", "/proc/self/environ", "/proc/2/environ"):
    try: print(open(path).read())
    except OSError as error: print(error)
print(dict(os.environ))
for pid in ("1", "self"):
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"): print(pid, fd, os.readlink(f"/proc/{pid}/fd/{fd}"))
    except OSError as error: print(error)
"""
            result = run_python(code)
        finally:
            del os.environ["DEEPGROUND_TEST_SECRET"]
        assert "hunter2" not in result.stdout
        assert "DEEPGROUND" not in result.stdout
        assert str(Path.home()) + "/" not in result.stdout.replace(sys.prefix, "").replace(sys.base_prefix, "")

    def test_descriptors_are_not_inherited(self, run_python: RunPython, workspace: Path) -> None:
        secret = workspace.parent / "secret"
        secret.write_text("secret")
        descriptor = os.open(secret, os.O_RDONLY)
        os.set_inheritable(descriptor, True)
        try:
            result = run_python("import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])")
        finally:
            os.close(descriptor)
        assert result.stdout.strip() == "[0, 1, 2]"

    def test_kernel_settings_cannot_be_written(self, run_python: RunPython) -> None:
        """Root included: opening for writing has to fail, and is all that is tried, for the machine's sake."""
        paths = ["sys/kernel/core_pattern", "sys/vm/drop_caches", "sysrq-trigger", "irq/default_smp_affinity", "mtrr"]
        code = """
import os, sys
for path in sys.argv[1:]:
    try: os.open("/proc/" + path, os.O_WRONLY); print(path)
    except OSError: pass
for folder, _, names in os.walk("/proc/sys"):
    for name in names:
        try: os.open(os.path.join(folder, name), os.O_WRONLY); print(folder, name)
        except OSError: pass
"""
        result = run_python(code, *paths, "self/oom_score_adj", "self/uid_map")
        assert (result.stdout, result.exit) == ("", 0)

    def test_mounting_fails(self, shell: RunPython) -> None:
        assert shell("mount -t tmpfs x /tmp").exit != 0
        assert shell("mount -o remount,rw /proc").exit != 0

    def test_background_processes_die_with_the_program(self, shell: RunPython, workspace: Path) -> None:
        shell("(setsid sh -c 'while true; do date +%s%N > beat; sleep 0.02; done' &) ; sleep 0.2")
        beat = (workspace / "beat").read_text()
        time.sleep(0.2)
        assert (workspace / "beat").read_text() == beat

    def test_timeout_leaves_no_orphan(self, shell: RunPython, workspace: Path) -> None:
        line = "trap '' TERM INT HUP; (trap '' TERM; while true; do date +%s%N > beat; sleep 0.02; done) & wait"
        result = shell(line, limits=Limits(seconds=0.5))
        assert (result.killed_by, result.exit, result.timed_out) == ("time", None, True)
        beat = (workspace / "beat").read_text()
        time.sleep(0.2)
        assert (workspace / "beat").read_text() == beat

    def test_dies_when_its_launcher_is_killed(self, sandbox: Sandbox, workspace: Path) -> None:
        code = (
            "from deepground.sandbox import run; from pathlib import Path; import sys\n"
            "run(['/bin/sh', '-c', 'while true; do date +%s%N > beat; sleep 0.02; done'], workspace=Path(sys.argv[1]))"
        )
        launcher = subprocess.Popen([sys.executable, "-c", code, str(workspace)])
        beat = workspace / "beat"
        while not beat.exists():
            time.sleep(0.02)
        launcher.kill()
        launcher.wait()
        time.sleep(0.2)
        last = beat.read_text()
        time.sleep(0.2)
        assert beat.read_text() == last

    def test_cancelled_from_outside(self, sandbox: Sandbox) -> None:
        cancelled = threading.Event()
        threading.Timer(0.2, cancelled.set).start()
        result = sandbox.run(["sleep", "20"], cancelled=cancelled)
        assert result.killed_by == "cancelled"
        assert result.seconds < 5


class TestSystemCalls:
    def test_refused_calls_answer_eperm(self, run_python: RunPython) -> None:
        column = ["x86_64", "aarch64"].index(platform.machine())
        numbers = {name: pair[column] for name, pair in _REFUSED.items() if pair[column] >= 0}
        answers = run_python(SYSCALL, *numbers.values()).stdout.split()
        assert dict(zip(numbers, answers, strict=True)) == dict.fromkeys(numbers, "EPERM")

    def test_same_calls_are_not_refused_outside(self) -> None:
        """Some of them answer otherwise here, or the test above would prove nothing."""
        libc = ctypes.CDLL(None, use_errno=True)
        column = ["x86_64", "aarch64"].index(platform.machine())
        libc.syscall(_REFUSED["io_uring_setup"][column], 0, 0)
        kcmp = libc.syscall(_REFUSED["kcmp"][column], os.getpid(), os.getpid(), 0, 0, 0)
        assert kcmp == 0

    def test_new_namespaces_are_refused(self, shell: RunPython, run_python: RunPython) -> None:
        assert shell("unshare -Ur true || unshare -n true || bwrap --ro-bind / / true").exit != 0
        clone_newuser = 0x10000000 | 17
        number = {"x86_64": 56, "aarch64": 220}[platform.machine()]
        call = f"l.syscall({number}, {clone_newuser}, 0, 0, 0, 0)"
        code = f"import ctypes; l = ctypes.CDLL(None, use_errno=True); print({call}, ctypes.get_errno())"
        assert run_python(code).stdout == "-1 1\n"

    def test_programs_that_run_as_their_owner_cannot_be_made(self, run_python: RunPython, workspace: Path) -> None:
        code = """
import os
def attempt(make):
    try: make()
    except OSError as error: print(error.errno)
open("f", "w").close()
attempt(lambda: os.chmod("f", 0o4755))
attempt(lambda: os.chmod("f", 0o2755))
attempt(lambda: os.fchmod(os.open("f", os.O_RDONLY), 0o4755))
attempt(lambda: os.open("g", os.O_CREAT | os.O_WRONLY, 0o4755))
attempt(lambda: os.mknod("h", 0o104755))
os.chmod("f", 0o755)
print(oct(os.stat("f").st_mode))
"""
        assert run_python(code).stdout.split() == ["1"] * 5 + ["0o100755"]
        assert not any(file.stat().st_mode & 0o6000 for file in workspace.iterdir())

    def test_typing_into_a_terminal_is_refused(self, run_python: RunPython) -> None:
        code = "import fcntl\ntry: fcntl.ioctl(0, 0x5412, b'x')\nexcept OSError as e: print(e.errno)"
        assert run_python(code).stdout == "1\n"

    def test_threads_and_processes_still_work(self, run_python: RunPython) -> None:
        code = (
            "import threading, subprocess, multiprocessing as m\n"
            "t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\n"
            "print(subprocess.run(['echo', 'child'], capture_output=True, text=True).stdout.strip())\n"
            "q = m.get_context('fork').Queue(); p = m.get_context('fork').Process(target=q.put, args=('fork',))\n"
            "p.start(); print(q.get()); p.join()"
        )
        assert run_python(code).stdout.split() == ["thread", "child", "fork"]

    def test_architecture_without_a_table_is_refused(self) -> None:
        with pytest.raises(SandboxUnavailableError, match="riscv64"):
            seccomp_program("riscv64")


class TestNetwork:
    def test_a_listener_of_the_machine_is_out_of_reach(self, run_python: RunPython) -> None:
        families = ((socket.AF_INET, "inet", "127.0.0.1"), (socket.AF_INET6, "inet6", "::1"))
        for family, name, host in families:
            for kind, word in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")):
                with socket.socket(family, kind) as server:
                    server.bind((host, 0))
                    server.settimeout(0.2)
                    if word == "tcp":
                        server.listen()
                    run_python(CONNECT, word, name, host, server.getsockname()[1])
                    with pytest.raises(TimeoutError):
                        server.accept() if word == "tcp" else server.recv(10)

    @pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "8.8.8.8"])
    def test_other_machines_are_out_of_reach(self, run_python: RunPython, address: str) -> None:
        assert "unreachable" in run_python(CONNECT, "tcp", "inet", address, 80).stdout

    def test_programs_for_the_network_fail(self, shell: RunPython) -> None:
        line = "getent hosts example.com; curl -s -m 2 http://1.1.1.1; (exec 3<>/dev/tcp/1.1.1.1/80) && echo out; true"
        assert shell(line).stdout == ""

    def test_unix_sockets_are_refused(self, run_python: RunPython, workspace: Path) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(workspace / "s"))
            server.listen()
            assert "refused" in run_python(CONNECT, "tcp", "unix", workspace / "s", 0).stdout
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("\0deepground-test")
            server.listen()
            assert "refused" in run_python(CONNECT, "tcp", "unix", "@deepground-test", 0).stdout

    @pytest.mark.parametrize(("family", "kind"), [(16, 3), (17, 3), (40, 1), (2, 3), (38, 5)])
    def test_other_families_are_refused(self, run_python: RunPython, family: int, kind: int) -> None:
        """Netlink, packet, vsock, raw IP, kernel crypto."""
        code = (
            f"import socket\ntry: socket.socket({family}, {kind}); print('open')\nexcept OSError as e: print(e.errno)"
        )
        assert run_python(code).stdout == "1\n"

    def test_its_own_loopback_works(self, run_python: RunPython) -> None:
        code = (
            "import socket\ns = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname())\n"
            "s.accept()[0].send(b'hello'); print(c.recv(5).decode())"
        )
        assert run_python(code).stdout == "hello\n"
