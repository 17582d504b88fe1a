"""Files of the workspace, and no others."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from pathlib import Path

import pytest

from deepground.agent.tools import ToolContext, ToolFailure
from deepground.agent.tools.files import edit, edit_file_tool, view_file_tool, write_file_tool
from deepground.agent.tools.workspace import Workspace
from deepground.errors import SandboxError


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _exchange(first: Path, second: Path) -> None:
    """Swap what two names stand for in one step (renameat2 with RENAME_EXCHANGE): neither is ever missing."""
    here, exchange = -100, 2
    if ctypes.CDLL(None, use_errno=True).renameat2(here, bytes(first), here, bytes(second), exchange):
        raise OSError(ctypes.get_errno(), "this file system cannot exchange two names", str(first))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    file = tmp_path / "secret.txt"
    file.write_text("secret")
    return file


class TestPaths:
    @pytest.mark.parametrize(
        "path", ["../secret.txt", "a/../../secret.txt", "/etc/passwd", "/proc/self/environ", "/proc/self/root/etc", "/"]
    )  # fmt: skip
    def test_outside_is_refused(self, folder: Path, outside: Path, path: str) -> None:
        (folder / "a").mkdir()
        workspace = Workspace(folder)
        with pytest.raises(ToolFailure, match="outside") as failure:
            workspace.read(path)
        assert failure.value.kind == "outside"
        with pytest.raises(ToolFailure, match="outside|folder"):
            workspace.write(path, b"x")

    def test_absolute_names_inside_are_fine(self, folder: Path) -> None:
        workspace = Workspace(folder)
        workspace.write(str(folder / "a.txt"), b"x")
        assert workspace.read("a.txt") == workspace.read("./b/../a.txt".replace("b/../", "")) == b"x"
        with pytest.raises(ToolFailure, match="outside"):
            workspace.read(str(folder) + "-other/a.txt")

    @pytest.mark.parametrize("link", ["file", "folder", "absolute", "chain"])
    def test_links_that_lead_out_are_refused(self, folder: Path, outside: Path, link: str) -> None:
        target = {"file": "../secret.txt", "folder": "..", "absolute": str(outside), "chain": "second"}[link]
        (folder / "link").symlink_to(target)
        (folder / "second").symlink_to(outside)
        path = "link/secret.txt" if link == "folder" else "link"
        workspace = Workspace(folder)
        with pytest.raises(ToolFailure, match="outside"):
            workspace.read(path)
        with pytest.raises(ToolFailure, match="outside"):
            workspace.write(path, b"x")
        assert outside.read_text() == "secret"

    def test_links_that_stay_inside_are_followed(self, folder: Path) -> None:
        (folder / "real").mkdir()
        (folder / "link").symlink_to("real")
        (folder / "up").symlink_to(folder / "real" / ".." / "real")
        workspace = Workspace(folder)
        workspace.write("link/a.txt", b"x")
        assert (folder / "real" / "a.txt").read_bytes() == b"x"
        assert workspace.read("up/a.txt") == b"x"
        (folder / "a").symlink_to("b")
        (folder / "b").symlink_to("a")
        with pytest.raises(ToolFailure, match="too many links"):
            workspace.read("a")

    def test_link_swapped_while_files_are_read(self, folder: Path, outside: Path) -> None:
        """A program that keeps replacing a folder by a link gains nothing."""
        (folder / "inner").mkdir()
        (folder / "inner" / "secret.txt").write_text("fine")
        (folder / "link").symlink_to(folder.parent)
        stop, refused = threading.Event(), 0

        def swap() -> None:
            while not stop.is_set():
                _exchange(folder / "inner", folder / "link")

        _exchange(folder / "inner", folder / "link")
        thread = threading.Thread(target=swap)
        thread.start()
        workspace, seen = Workspace(folder), set()
        try:
            for _ in range(3000):
                try:
                    seen.add(workspace.read("inner/secret.txt"))
                    workspace.write("inner/secret.txt", b"fine")
                except ToolFailure:
                    refused += 1
        finally:
            stop.set()
            thread.join()
        assert seen == {b"fine"}
        assert refused
        assert outside.read_text() == "secret"

    @pytest.mark.parametrize(
        "path", [".git/hooks/pre-commit", ".git", ".GIT/config", "sub/.git/hooks/x", ".envrc", ".vscode/settings.json",
                 ".deepground/rules.json", "new/.git/config"]
    )  # fmt: skip
    def test_what_other_programs_act_on_is_protected(self, folder: Path, path: str) -> None:
        for name in (".git/hooks", ".GIT", "sub/.git/hooks", ".vscode", ".deepground"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        workspace = Workspace(folder)
        with pytest.raises(ToolFailure) as failure:
            workspace.write(path, b"x")
        assert failure.value.kind in {"protected", "bad_path"}
        (folder / "link").symlink_to(".git/hooks")
        with pytest.raises(ToolFailure, match="protected"):
            workspace.write("link/pre-commit", b"x")
        assert not (folder / "new" / ".git").exists()

    def test_hard_link_is_cut_loose(self, folder: Path, outside: Path) -> None:
        os.link(outside, folder / "copy.txt")
        Workspace(folder).write("copy.txt", b"mine")
        assert outside.read_text() == "secret"

    def test_pipes_and_devices_are_not_waited_for(self, folder: Path) -> None:
        os.mkfifo(folder / "pipe")
        with pytest.raises(ToolFailure, match="no plain file"):
            Workspace(folder).read("pipe")
        with pytest.raises(ToolFailure, match="no plain file"):
            Workspace(folder).write("pipe", b"x")

    def test_mode_stays_and_nothing_is_left_beside(self, folder: Path) -> None:
        script = folder / "run.sh"
        script.write_text("old")
        script.chmod(0o755)
        Workspace(folder).write("run.sh", b"new")
        assert script.stat().st_mode & 0o777 == 0o755
        assert list(folder.iterdir()) == [script]

    @pytest.mark.parametrize("path", ["", "  ", "a\0b", "\udcff"])
    def test_names_that_are_none(self, folder: Path, path: str) -> None:
        with pytest.raises(ToolFailure):
            Workspace(folder).read(path)

    def test_descriptors_are_closed(self, folder: Path) -> None:
        (folder / "a.txt").write_text("x")
        workspace, before = Workspace(folder), open_files()
        for path in ("a.txt", "none", "a.txt/b", "../x", "."):
            for act in (workspace.read, workspace.exists, workspace.entries, lambda p: workspace.write(p, b"x")):
                with contextlib.suppress(ToolFailure):
                    act(path)  # type: ignore[operator]
        assert open_files() == before

    def test_own_folders_must_not_overlap(self, folder: Path) -> None:
        with pytest.raises(SandboxError, match="overlap"):
            Workspace(folder, keep_out=(folder / "state",))


class TestViewing:
    def test_as_it_is(self, folder: Path, context: ToolContext) -> None:
        (folder / "a.py").write_text("one\ntwo\nthree\n")
        tool = view_file_tool(Workspace(folder), ranges=True)
        assert tool.run({"path": "a.py"}, context).content == "one\ntwo\nthree\n"
        assert tool.run({"path": "a.py", "start": 2, "end": 2}, context).content == "[lines 2 to 2 of 3]\ntwo\n"
        assert tool.run({"path": "."}, context).content == "a.py (14 bytes)"
        with pytest.raises(ToolFailure, match="has 3 lines"):
            tool.run({"path": "a.py", "start": 9}, context)

    def test_what_is_no_text(self, folder: Path, context: ToolContext) -> None:
        (folder / "a.bin").write_bytes(b"\0\1")
        (folder / "b.txt").write_bytes("é".encode("latin-1"))
        tool = view_file_tool(Workspace(folder), ranges=False)
        for path in ("a.bin", "b.txt"):
            with pytest.raises(ToolFailure, match="text"):
                tool.run({"path": path}, context)

    def test_outputs_that_were_too_long(self, folder: Path, context: ToolContext) -> None:
        (context.artifacts / "outputs").mkdir()
        (context.artifacts / "outputs" / "000-shell.txt").write_text("all of it")
        (context.artifacts / "other.txt").write_text("other")
        tool = view_file_tool(Workspace(folder), ranges=True)
        assert tool.run({"path": "@outputs/000-shell.txt"}, context).content == "all of it"
        for path in ("@outputs/none", "@outputs/../other.txt", "@outputs/../../trajectory.jsonl"):
            with pytest.raises(ToolFailure, match="no output"):
                tool.run({"path": path}, context)


class TestEditing:
    def test_once(self) -> None:
        assert edit("a", "x = 1\ny = 2\n", "y = 2", "y = 3") == "x = 1\ny = 3\n"

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            ("    return a - c", "", r"nearest is line 2: '    return a - b'"),
            ("\treturn a-b", "", "other blanks"),
            ("nothing like it whatever", "", "look at the file first"),
            ("a", "b", r"occurs 4 times in calc.py \(lines 1, 1, 2, 2\)|occurs \d+ times"),
            ("", "x", "old is empty"),
            ("def", "def", "the same"),
        ],
    )
    def test_failures_say_what_to_do(self, old: str, new: str, said: str) -> None:
        with pytest.raises(ToolFailure, match=said):
            edit("calc.py", "def sub(a, b):\n    return a - b\n", old, new)

    def test_windows_line_ends_stay(self, folder: Path, context: ToolContext) -> None:
        (folder / "a.txt").write_bytes(b"one\r\ntwo\r\nthree\r\n")
        edit_file_tool(Workspace(folder)).run({"path": "a.txt", "old": "one\ntwo", "new": "one\n2"}, context)
        assert (folder / "a.txt").read_bytes() == b"one\r\n2\r\nthree\r\n"

    def test_writing_makes_folders(self, folder: Path, context: ToolContext) -> None:
        result = write_file_tool(Workspace(folder)).run({"path": "src/new/a.py", "content": "x = 1\n"}, context)
        assert result.content == "wrote src/new/a.py"
        assert (folder / "src" / "new" / "a.py").read_text() == "x = 1\n"
        with pytest.raises(ToolFailure, match="half a character"):
            write_file_tool(Workspace(folder)).run({"path": "b", "content": "\ud800"}, context)
