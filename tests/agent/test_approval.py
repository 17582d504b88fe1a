"""Rules: which calls may run; and the record on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.agent_samples import of_type, run_script, text_tool
from agent.scripted_endpoint import call, finish
from deepground.agent.agent import AgentConfig
from deepground.agent.approval import HOUSE_RULES, Rule, decide, load_rules
from deepground.agent.trajectory import Trajectory, read_events, run_folder
from deepground.errors import AgentError, TrajectoryError

ALLOW_GIT = Rule(tool="shell", match="git *", action="allow")
DENY_RM = Rule(tool="shell", match="rm *", action="deny")


class TestRules:
    @pytest.mark.parametrize(
        ("rules", "tool", "text", "action"),
        [
            ((), "shell", "ls", "ask"),
            ((ALLOW_GIT,), "shell", "git status", "allow"),
            ((ALLOW_GIT,), "shell", "git status; rm -rf .", "ask"),
            ((ALLOW_GIT,), "shell", "git log | sh", "ask"),
            ((ALLOW_GIT,), "shell", "git log $(rm x)", "ask"),
            ((ALLOW_GIT,), "shell", "git log\nrm x", "ask"),
            ((ALLOW_GIT,), "shell", "gitx", "ask"),
            ((ALLOW_GIT,), "python", "git status", "ask"),
            ((DENY_RM, Rule(tool="*", action="allow")), "shell", "rm -rf x", "deny"),
            ((Rule(tool="*", action="allow"), DENY_RM), "shell", "cd a && rm -rf x", "deny"),
            ((Rule(tool="*", action="allow"), DENY_RM), "shell", "echo `rm x`", "deny"),
            ((Rule(tool="*", action="allow"), Rule(tool="shell", action="ask")), "shell", "ls", "ask"),
            (HOUSE_RULES, "mcp__x__y", "{}", "ask"),
            ((Rule(tool="*", action="allow"), *HOUSE_RULES), "view_file", "conf/.env.local", "ask"),
        ],
    )
    def test_decision(self, rules: tuple[Rule, ...], tool: str, text: str, action: str) -> None:
        assert decide(rules, tool, text) == action

    def test_file(self, tmp_path: Path) -> None:
        file = tmp_path / "rules.json"
        file.write_text('{"rules": [{"tool": "shell", "match": "rm *", "action": "deny"}]}')
        assert load_rules(file) == (DENY_RM,)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("{", "cannot be read"),
            ("[]", "holds no rules"),
            ('{"rules": [{"tool": "x"}]}', r"rules\[0\] needs tool and action"),
            ('{"rules": [{"tool": "x", "action": "maybe"}]}', "must be allow, ask or deny"),
            ('{"rules": [{"tool": "x", "action": "deny", "pattern": "y"}]}', r"rules\[0\]"),
            ('{"rules": [{"tool": 3, "action": "deny"}]}', "not text"),
        ],
    )
    def test_file_with_mistakes(self, tmp_path: Path, content: str, said: str) -> None:
        file = tmp_path / "rules.json"
        file.write_text(content)
        with pytest.raises(AgentError, match=said):
            load_rules(file)

    def test_rule_that_cannot_be_applied_allows_nothing(self, tmp_path: Path) -> None:
        ran = []
        tool = text_tool("look", lambda: str(ran.append(1)), approval_text=lambda arguments: str(arguments["missing"]))
        config = AgentConfig(rules=(Rule(tool="look", action="allow"),))
        _, events, _ = run_script([call("look"), finish()], tmp_path, tool, config=config)
        assert (ran, of_type(events, "tool_result")[0]["error_kind"]) == ([], "denied")


class TestRecord:
    @staticmethod
    def written(folder: Path) -> Path:
        record = Trajectory(folder)
        for n in range(3):
            record.add("message", n=n)
        record.close()
        return folder / "trajectory.jsonl"

    @pytest.mark.parametrize("cut", range(1, 40))
    def test_torn_end_is_dropped(self, tmp_path: Path, cut: int) -> None:
        path = self.written(tmp_path / "r")
        whole = path.read_bytes()
        path.write_bytes(whole[:-cut])
        assert [event["n"] for event in read_events(tmp_path / "r")] == [0, 1]
        record = Trajectory(tmp_path / "r")
        record.add("message", n=9)
        record.close()
        assert [event["n"] for event in read_events(tmp_path / "r")] == [0, 1, 9]

    def test_damage_in_the_middle_is_an_error(self, tmp_path: Path) -> None:
        path = self.written(tmp_path / "r")
        lines = path.read_text().split("\n")
        path.write_text("\n".join([lines[0], "###", *lines[2:]]))
        with pytest.raises(TrajectoryError, match="line 2"):
            read_events(tmp_path / "r")

    def test_one_process_at_a_time(self, tmp_path: Path) -> None:
        record = Trajectory(tmp_path / "r")
        with pytest.raises(TrajectoryError, match="worked on by another"):
            Trajectory(tmp_path / "r")
        record.close()

    def test_later_version(self, tmp_path: Path) -> None:
        folder = tmp_path / "r"
        folder.mkdir()
        event = {"seq": 0, "time": 0, "type": "run_started", "version": 99}
        (folder / "trajectory.jsonl").write_text(json.dumps(event) + "\n")
        with pytest.raises(TrajectoryError, match="later deepground"):
            read_events(folder)

    @pytest.mark.parametrize("name", ["../r", "", "r/../r", "a" * 99, "none"])
    def test_names_of_runs(self, tmp_path: Path, name: str) -> None:
        self.written(tmp_path / "r")
        with pytest.raises(TrajectoryError, match="no run"):
            run_folder(name, tmp_path)
