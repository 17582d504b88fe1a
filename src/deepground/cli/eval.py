"""`deepground eval`: accuracy with confidence intervals, of a folder or of any endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepground.cli.options import ConcurrencyOption, FieldOption, GraderOption, MaxTokensOption, same_named

if TYPE_CHECKING:
    from deepground.train.answering import Respondent
    from deepground.train.evaluation import EvaluationPlan, EvaluationResults


_Model = Annotated[
    str | None,
    typer.Argument(help="Model folder, or the address of an endpoint up to /v1; the bundled pilot if left out."),
]
_Suites = Annotated[
    list[str] | None,
    typer.Argument(help="addition, addition@5, tasks, stretch, format, gym:NAME, or a file; tasks if left out."),
]
_Side = Annotated[
    list[str] | None, typer.Option(help="A suite that only shows side effects; may be given several times.")
]
_Before = Annotated[Path | None, typer.Option(help="Results folder of an earlier evaluation, to show what changed.")]
_ApiKey = Annotated[
    str | None, typer.Option(envvar="DEEPGROUND_EVAL_API_KEY", help="Of the endpoint; better set as a variable.")
]
_Thinking = Annotated[
    bool | None, typer.Option("--thinking/--no-thinking", help="One mode only; else both, of an endpoint its own.")
]
_ClusterField = Annotated[
    str | None, typer.Option(help="Column of a file that tells which questions are no independent evidence.")
]
_Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for answers, results and report; goes on there.")
]


def evaluate(
    model: _Model = None,
    suites: _Suites = None,
    side: _Side = None,
    before: _Before = None,
    model_name: Annotated[str | None, typer.Option("--model", help="The model's name at the endpoint.")] = None,
    api_key: _ApiKey = None,
    n: Annotated[int | None, typer.Option("--n", help="Questions per task; else 200, and all of a file.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers per question, for pass@k.")] = 1,
    thinking: _Thinking = None,
    max_tokens: MaxTokensOption = 512,
    temperature: Annotated[float | None, typer.Option(help="Else 0, or 0.6 with several answers.")] = None,
    concurrency: ConcurrencyOption = 32,
    threads: Annotated[int | None, typer.Option(min=1, help="Of a model folder; else all cores.")] = None,
    seed: Annotated[int, typer.Option(help="Of the questions and answers.")] = 0,
    question_field: FieldOption = None,
    answer_field: FieldOption = None,
    cluster_field: _ClusterField = None,
    grader: GraderOption = None,
    output: _Output = None,
) -> None:
    """Ask a model held-out questions, grade its answers, and say how sure the figures are."""
    plan = _plan(locals())
    import asyncio
    import tempfile

    from deepground.train.evaluation import EvaluationResults

    earlier = None if before is None else EvaluationResults.load(before)
    with tempfile.TemporaryDirectory() as scratch:
        respondent = make_respondent(model, model_name, api_key, concurrency=concurrency, threads=threads)
        asyncio.run(_run(respondent, plan, output or Path(scratch), earlier, keep=output is not None))


def _plan(options: Mapping[str, Any]) -> EvaluationPlan:
    from deepground.train.answering import FieldNames
    from deepground.train.evaluation import EvaluationPlan

    thinking = options["thinking"]
    own = {
        "suites": tuple(options["suites"] or ("tasks",)),
        "side": tuple(options["side"] or ()),
        "count": options["n"],
        "thinking": (thinking,) if thinking is not None else (None,) if is_address(options["model"]) else (True, False),
        "fields": FieldNames(**{name: options[f"{name}_field"] for name in ("question", "answer", "cluster")}),
    }
    return EvaluationPlan(**same_named(EvaluationPlan, options) | own)


def is_address(model: str | None) -> bool:
    """Whether a model is named by the address of an endpoint."""
    return model is not None and model.startswith(("http://", "https://"))


async def _run(
    respondent: Respondent, plan: EvaluationPlan, folder: Path, earlier: EvaluationResults | None, *, keep: bool
) -> None:
    from rich.console import Console
    from rich.markdown import Markdown

    from deepground.cli.progress import AnswerProgress
    from deepground.train.evaluation import evaluate_suites, text_table, write_report

    with AnswerProgress("answers") as progress:
        try:
            results, answers = await evaluate_suites(respondent, plan, folder, progress.show)
        finally:
            await respondent.aclose()
    table = text_table(results, earlier)
    console = Console()
    console.print(Markdown(table) if console.is_terminal else table, soft_wrap=True)
    if keep:
        print(f"\nreport: {write_report(folder, results, answers, earlier)}")


def make_respondent(
    model: str | None, name: str | None, api_key: str | None, *, concurrency: int, threads: int | None
) -> Respondent:
    """A model folder or an endpoint, as the command line names them."""
    from deepground.train.answering import Endpoint, EndpointSettings, LocalModel, only_model

    if model is not None and is_address(model):
        name = only_model(model, api_key) if name is None else name
        return Endpoint(EndpointSettings(base_url=model, model=name, api_key=api_key))
    if name is not None:
        raise typer.BadParameter("names a model at an endpoint, and MODEL is no address", param_hint="--model")
    folder = None if model is None or model == "pilot" else Path(model)
    return LocalModel(folder, max_sequences=concurrency, threads=threads)
