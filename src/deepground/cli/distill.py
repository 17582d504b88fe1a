"""`deepground distill`: a teacher's verified and curated reasoning as a training set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepground.cli.options import ConcurrencyOption, FieldOption, GraderOption, ProblemsOption, same_named

if TYPE_CHECKING:
    from deepground.train.answering import FieldNames, Question, Respondent
    from deepground.train.distill import DistillPlan


_Problems = Annotated[
    list[Path] | None, typer.Option(help="File of problems (Excel, CSV, JSONL, JSON, Parquet); several are possible.")
]
_ApiKey = Annotated[str | None, typer.Option(envvar="DEEPGROUND_TEACHER_API_KEY", help="Better set as a variable.")]
_Student = Annotated[
    str | None, typer.Option(help="Model folder, or pilot: its own pass rate tells what is worth teaching.")
]
_Evaluation = Annotated[
    list[str] | None, typer.Option(help="Suite that must not be trained on (as for eval); several are possible.")
]
_Thinking = Annotated[
    bool | None, typer.Option("--thinking/--no-thinking", help="The teacher's switch; else as it is by itself.")
]
_NeedThinking = Annotated[
    bool, typer.Option("--need-thinking/--answers-only", help="Drop answers that come without thinking.")
]
_Prefer = Annotated[
    Literal["short", "long", "random"], typer.Option(help="Which of several right answers comes first.")
]


def distill(
    run: Annotated[Path, typer.Argument(help="Folder of the run; the set goes to dataset.jsonl in it.")],
    problems: _Problems = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="Problems of this task, or of one level as in addition@5; several are possible."),
    ] = None,
    per_task: ProblemsOption = 1000,
    teacher: Annotated[str, typer.Option(help="Address of an endpoint up to /v1, a model folder, or pilot.")] = "pilot",
    model_name: Annotated[str | None, typer.Option("--model", help="The teacher's name at the endpoint.")] = None,
    api_key: _ApiKey = None,
    student: _Student = None,
    evaluation: _Evaluation = None,
    question_field: FieldOption = None,
    answer_field: FieldOption = None,
    grader: GraderOption = None,
    system_prompt: Annotated[str | None, typer.Option(help="Put before every question.")] = None,
    size: Annotated[int, typer.Option(min=1, help="Samples in the set.")] = 10_000,
    samples: Annotated[int, typer.Option(min=1, help="Answers of the teacher to each question.")] = 4,
    per_question: Annotated[int, typer.Option(min=1, help="Most answers to one question in the set.")] = 4,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="Of the teacher.")] = 0.6,
    top_p: Annotated[float, typer.Option(help="Of the teacher.")] = 0.95,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of one answer; longer ones are dropped, never cut.")] = 16_384,
    thinking: _Thinking = None,
    need_thinking: _NeedThinking = True,
    language: Annotated[float, typer.Option(help="Least share of letters in the question's script; 0: any.")] = 0.8,
    easiest: Annotated[float, typer.Option(help="Drop what the student solves more often than this.")] = 0.99,
    hardest: Annotated[float, typer.Option(help="Drop what the student solves less often than this.")] = 0.0,
    student_samples: Annotated[int, typer.Option(min=1, help="Attempts of the student at each question.")] = 4,
    prefer: _Prefer = "short",
    ngram: Annotated[int, typer.Option(min=1, help="Words in a row not to be shared with the evaluation set.")] = 8,
    concurrency: ConcurrencyOption = 16,
    most_tokens: Annotated[int | None, typer.Option(min=1, help="Budget of the teacher's tokens.")] = None,
    price_in: Annotated[float, typer.Option(min=0, help="Per million tokens of prompts.")] = 0.0,
    price_out: Annotated[float, typer.Option(min=0, help="Per million tokens of answers.")] = 0.0,
    currency: Annotated[str, typer.Option(help="Of the prices.")] = "USD",
    grader_seconds: Annotated[float, typer.Option(min=0.1, help="That one verdict may take.")] = 10.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Of a model in this process; else all cores.")] = None,
    seed: Annotated[int, typer.Option(help="Of problems, answers and choices.")] = 0,
) -> None:
    """Ask a teacher, verify its answers, and keep the best as a set to fine-tune on; goes on after a kill."""
    plan = _plan(locals())
    import asyncio

    from deepground.train.answering import FieldNames

    fields = FieldNames(question=question_field, answer=answer_field)
    questions = _questions(problems, task, per_task, fields, grader, system_prompt, seed)
    asyncio.run(_run(run, questions, plan, teacher, model_name, api_key, student, evaluation, threads, fields))


def _plan(options: Mapping[str, Any]) -> DistillPlan:
    from deepground.train.distill import CurationRules, DistillPlan, QualityRules

    quality = QualityRules(**same_named(QualityRules, options))
    rules = CurationRules(**same_named(CurationRules, options) | {"quality": quality})
    return DistillPlan(**same_named(DistillPlan, options) | {"rules": rules})


async def _run(
    run: Path,
    questions: list[Question],
    plan: DistillPlan,
    teacher: str,
    model_name: str | None,
    api_key: str | None,
    student: str | None,
    evaluation: list[str] | None,
    threads: int | None,
    fields: FieldNames,
) -> None:
    from deepground.cli.eval import make_respondent
    from deepground.cli.progress import AnswerProgress
    from deepground.engine import PILOT_FOLDER
    from deepground.model import Tokenizer
    from deepground.train.distill import distill as make_set
    from deepground.train.distill import write_distill_report
    from deepground.train.evaluation import suite_questions

    held_out = [
        q for name in evaluation or () for q in suite_questions(name, count=None, seed=plan.seed, fields=fields)
    ]
    answers = make_respondent(teacher, model_name, api_key, concurrency=plan.concurrency, threads=threads)
    folder = None if student is None else PILOT_FOLDER if student == "pilot" else Path(student)

    def make_student() -> Respondent:
        return make_respondent(student, None, None, concurrency=plan.concurrency, threads=threads)

    with AnswerProgress("answers of the student") as first, AnswerProgress("answers of the teacher") as second:
        try:
            outcome = await make_set(
                questions,
                answers,
                run,
                plan,
                evaluation=held_out,
                student=None if student is None else make_student,
                tokenizer=None if folder is None else Tokenizer.from_folder(folder),
                on_student=first.show,
                on_teacher=second.show,
            )
        finally:
            await answers.aclose()
    for fate, count in outcome.summary["fates"].items():
        print(f"{count:8,}  {fate}")
    print(
        f"\nset: {outcome.dataset} ({outcome.summary['kept']:,} samples)\nreport: {write_distill_report(run, outcome)}"
    )


def _questions(
    problems: list[Path] | None,
    tasks: list[str] | None,
    per_task: int,
    fields: FieldNames,
    grader: str | None,
    system_prompt: str | None,
    seed: int,
) -> list[Question]:
    from deepground.train.answering import read_questions, task_questions

    questions = [
        question
        for path in problems or ()
        for question in read_questions(path, fields=fields, grader=grader, system_prompt=system_prompt)
    ]
    for name in tasks or ():
        questions += task_questions(name, per_task, split="train", seed=seed)
    if not questions:
        raise typer.BadParameter("name a file of problems, or a task with --task", param_hint="--problems")
    return questions
