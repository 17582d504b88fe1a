"""What a sandboxed program can read and write."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from deepground.errors import SandboxError
from deepground.sandbox import Sandbox, resolve_workspace
from sandbox.conftest import RunPython


def test_system_is_readable_and_the_workspace_writable(shell: RunPython, workspace: Path) -> None:
    result = shell("ls /usr/bin >/dev/null && echo data > made && cat made && echo x > /dev/null")
    assert (result.exit, result.stdout) == (0, "data\n")
    assert (workspace / "made").read_text() == "data\n"


@pytest.mark.parametrize(
    "path", ["/usr/made", "/made", "/etc/made", "/dev/made", "/proc/made", "/var/made", "/root/made"]
)
def test_writing_elsewhere_fails(shell: RunPython, path: str) -> None:
    result = shell(f"echo x > {path}")
    assert result.exit != 0
    assert not Path(path).exists()


def test_home_keys_and_settings_are_not_there(shell: RunPython) -> None:
    home = Path.home()
    result = shell(f"cat /etc/shadow; ls -A {home}/.ssh {home}/.config {home}/.bashrc /run /sys /var/lib; ls -A $HOME")
    assert result.stdout == ""


def test_sibling_folders_are_not_there(shell: RunPython, workspace: Path) -> None:
    (workspace.parent / "secret").write_text("secret")
    assert shell("cat ../secret; ls ..").stdout.strip() == workspace.name


def test_symbolic_link_out_of_the_workspace_leads_nowhere(shell: RunPython, workspace: Path) -> None:
    outside = workspace.parent / "outside"
    outside.write_text("kept")
    (workspace / "link").symlink_to(outside)
    result = shell("cat link; echo changed > link; ln -s /etc/shadow made; cat made")
    assert result.stdout == ""
    assert outside.read_text() == "kept"


def test_proc_self_root_is_the_sandbox(shell: RunPython) -> None:
    result = shell("cat /proc/self/root/etc/shadow /proc/1/root/etc/shadow /proc/self/cwd/../../../../etc/shadow")
    assert result.stdout == ""
    assert result.exit != 0


def test_hard_link_to_the_system_fails(shell: RunPython) -> None:
    assert shell("ln /usr/bin/env here").exit != 0


def test_special_files_are_refused(shell: RunPython) -> None:
    result = shell("mknod disk b 8 0; mknod memory c 1 1; ls")
    assert result.stdout == ""


def test_private_tmp_is_not_the_machines(shell: RunPython, workspace: Path) -> None:
    marker = Path("/tmp") / f"deepground-{os.getpid()}"
    marker.write_text("x")
    try:
        assert marker.name not in shell("ls /tmp; touch /tmp/inside /var/tmp/inside").stdout
    finally:
        marker.unlink()
    assert not Path("/tmp/inside").exists()


def test_read_only_workspace(run_python: RunPython, workspace: Path) -> None:
    (workspace / "file").write_text("kept")
    result = run_python("print(open('file').read()); open('file', 'w')", writable=False)
    assert result.stdout == "kept\n"
    assert "Read-only" in result.stderr


def test_without_workspace_files_are_private(sandbox: Sandbox) -> None:
    result = sandbox.run(["/bin/sh", "-c", "pwd; echo 1 > file; cat file"])
    assert result.stdout == "/workspace\n1\n"
    assert not Path("/workspace").exists()


class TestProtectedNames:
    def test_git_folder_cannot_be_changed(self, shell: RunPython, workspace: Path) -> None:
        (workspace / ".git" / "hooks").mkdir(parents=True)
        (workspace / ".git" / "config").write_text("[core]\n")
        shell(
            "echo evil > .git/hooks/pre-commit; echo evil >> .git/config; rm -rf .git; mv .git away; "
            "ln -sfn /tmp .git; chmod 777 .git"
        )
        assert (workspace / ".git" / "config").read_text() == "[core]\n"
        assert list((workspace / ".git" / "hooks").iterdir()) == []

    def test_git_folder_cannot_be_made(self, shell: RunPython, workspace: Path) -> None:
        result = shell("git init . ; mkdir .git; echo x > .git; rmdir .git; mv .git away; ls -A")
        assert result.stdout == ".git\n"
        assert list(workspace.iterdir()) == []

    def test_editor_and_agent_settings_stay(self, shell: RunPython, workspace: Path) -> None:
        (workspace / ".vscode").mkdir()
        (workspace / ".mcp.json").write_text("{}")
        shell("echo evil > .vscode/tasks.json; echo evil > .mcp.json; rm .mcp.json; mv .vscode other")
        assert (workspace / ".mcp.json").read_text() == "{}"
        assert list((workspace / ".vscode").iterdir()) == []

    @pytest.mark.parametrize("name", [".git", ".envrc"])
    def test_symbolic_link_in_its_place_is_refused(self, shell: RunPython, workspace: Path, name: str) -> None:
        (workspace.parent / "target").mkdir()
        (workspace / name).symlink_to(workspace.parent / "target")
        with pytest.raises(SandboxError, match="symbolic link"):
            shell("true")

    def test_interpreter_that_runs_deepground_stays(self, sandbox: Sandbox) -> None:
        """A workspace that holds deepground itself: what runs outside next must not be the program's."""
        import deepground

        package = Path(deepground.__file__).resolve().parent
        checkout = package.parents[1]
        line = f"touch {package}/made {sys.prefix}/made; echo x >> {package}/__init__.py; true"
        result = sandbox.run(["/bin/sh", "-c", line], workspace=checkout)
        assert result.stderr.count("Read-only file system") == 3
        assert not (package / "made").exists()


class TestWorkspace:
    @pytest.mark.parametrize("path", ["/", "/usr/lib", "/etc", "/proc", "/tmp", "~", "/dev/shm"])
    def test_too_wide_or_not_the_users(self, path: str) -> None:
        with pytest.raises(SandboxError, match="workspace"):
            resolve_workspace(Path(path))

    def test_missing_or_a_file(self, tmp_path: Path) -> None:
        with pytest.raises(SandboxError, match="No such file"):
            resolve_workspace(tmp_path / "none")
        (tmp_path / "file").touch()
        with pytest.raises(SandboxError, match="is a file"):
            resolve_workspace(tmp_path / "file")

    def test_own_records_inside_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "state").mkdir()
        for folder, own in ((tmp_path, tmp_path / "state"), (tmp_path / "state", tmp_path)):
            with pytest.raises(SandboxError, match="overlap"):
                resolve_workspace(folder, keep_out=[own])

    def test_symbolic_link_is_resolved_before_the_rules_apply(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("/etc")
        with pytest.raises(SandboxError, match="belongs to the system"):
            resolve_workspace(tmp_path / "link")
