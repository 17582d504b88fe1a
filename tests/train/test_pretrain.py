import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from deepground.errors import TrainingError
from deepground.train import PretrainResult, RunReporter, list_checkpoints, pretrain, read_state
from deepground.train.pretrain import choose_precision
from deepground.train.reporting import METRICS_FILE, StepResult, read_metrics
from training_samples import tiny_trainer

TESTS = Path(__file__).resolve().parent.parent
RUN_ALONE = """
import sys
from pathlib import Path
import torch
from rich.console import Console
from training_samples import tiny_trainer
from deepground.train import RunReporter, pretrain

torch.set_num_threads(1)
folder = Path(sys.argv[1])
pretrain(tiny_trainer(40), folder, RunReporter(folder, Console(file=sys.stderr)))
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def reporter(folder: Path, text: io.StringIO | None = None) -> RunReporter:
    return RunReporter(folder, Console(file=text or io.StringIO(), width=200))


def run(folder: Path, total_steps: int = 40, **settings: Any) -> PretrainResult:
    return pretrain(tiny_trainer(total_steps, **settings), folder, reporter(folder))


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_metrics(folder / METRICS_FILE)]


def test_a_killed_run_goes_on_to_the_same_losses(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", RUN_ALONE, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 100
    while len(losses(folder)) < 13:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    reached = read_state(list_checkpoints(folder)[-1])["step"]
    assert 10 <= reached < 40
    assert run(folder).finished
    assert losses(folder) == losses(tmp_path / "whole")


def test_a_stop_signal_saves_and_a_new_start_goes_on(tmp_path: Path) -> None:
    run(tmp_path / "whole", 12)

    class StopAtFour(RunReporter):
        def step(self, result: StepResult) -> None:
            super().step(result)
            if result.step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    folder = tmp_path / "stopped"
    result = pretrain(tiny_trainer(12), folder, StopAtFour(folder, Console(file=io.StringIO())))
    assert (result.step, result.finished, result.checkpoint.name) == (4, False, "step_00000004")
    assert run(folder, 12).finished
    assert losses(folder) == losses(tmp_path / "whole")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_time_limit_stops_with_a_checkpoint(tmp_path: Path) -> None:
    result = run(tmp_path, 1000, max_minutes=0.5 / 60)
    assert not result.finished
    assert read_state(result.checkpoint)["step"] == result.step


def test_a_changed_schedule_is_followed_and_told(tmp_path: Path) -> None:
    run(tmp_path, 1000, max_minutes=0.0001)
    text = io.StringIO()
    assert pretrain(tiny_trainer(6), tmp_path, reporter(tmp_path, text)).finished
    assert "changed schedule.total_steps: 1000 -> 6" in text.getvalue()
    assert read_metrics(tmp_path / METRICS_FILE)[-1]["lr_factor"] < 1


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    run(tmp_path, 3)
    before = losses(tmp_path)
    assert run(tmp_path, 3).finished
    assert losses(tmp_path) == before


def test_the_model_learns_to_copy(tmp_path: Path) -> None:
    run(tmp_path, 120, checkpoint_steps=500)
    values = [loss for _, loss in losses(tmp_path)]
    assert values[0] > 5.5
    assert sum(values[-10:]) / 10 < 2.0


def test_rows_per_pass_do_not_change_the_gradient() -> None:
    whole, parts = tiny_trainer(5, micro_rows=8), tiny_trainer(5, micro_rows=3)
    for trainer in (whole, parts):
        trainer.run_step()
    for a, b in zip(whole.decoder.parameters(), parts.decoder.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_bfloat16_products_train_too() -> None:
    trainer = tiny_trainer(40, precision="bfloat16")
    results = [trainer.run_step() for _ in range(12)]
    assert results[-1].loss < results[0].loss - 0.3
    assert all(parameter.dtype == torch.float32 for parameter in trainer.decoder.parameters())


def test_precision_is_chosen_with_a_reason() -> None:
    assert choose_precision("bfloat16", "cpu") == (torch.bfloat16, "asked for")
    dtype, reason = choose_precision("auto", "cpu")
    assert (dtype == torch.bfloat16) == ("in hardware" in reason)
    assert choose_precision("auto", "cuda")[0] == torch.bfloat16


def test_plain_lines_have_speed_and_time_left(tmp_path: Path) -> None:
    text = io.StringIO()
    pretrain(tiny_trainer(10), tmp_path, reporter(tmp_path, text))
    line = next(line for line in text.getvalue().splitlines() if "step 10/10" in line)
    for part in ("loss ", "tokens/s", "min left", "load "):
        assert part in line


def test_a_terminal_gets_a_progress_bar(tmp_path: Path) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    pretrain(tiny_trainer(3), tmp_path, RunReporter(tmp_path, console))
    assert "3/3" in text.getvalue()
    assert "step 3/3" not in text.getvalue()


def test_curves_are_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    pretrain(tiny_trainer(3), tmp_path, RunReporter(tmp_path, Console(file=io.StringIO()), curves=True))
    assert list((tmp_path / "curves").glob("events.*"))


def test_curves_without_tensorboard_name_the_cure(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['tensorboard'] = None\n"
    code = (
        "from pathlib import Path\nfrom rich.console import Console\nfrom deepground.train import RunReporter\n"
        f"RunReporter(Path({str(tmp_path)!r}), Console(), curves=True)"
    )
    done = subprocess.run([sys.executable, "-c", hidden + code], capture_output=True, text=True, check=False)
    assert TrainingError.__name__ in done.stderr
    assert "pip install 'deepground[train]'" in done.stderr


def test_a_cut_line_of_metrics_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo', encoding="utf-8")
    assert [line["step"] for line in read_metrics(path)] == [1]
