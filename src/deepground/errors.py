"""Every exception that deepground raises on purpose.

    DeepgroundError
    ├── ModelFolderError          the folder is not a model that can be loaded
    │   ├── UnsupportedModelError     a family, format or option that is not implemented
    │   ├── ConfigError               config.json is missing, unreadable or out of range
    │   ├── WeightsError              tensors are missing, unknown, damaged or of the wrong shape
    │   ├── UnsafeFileError           pickle or other files that could run code
    │   └── TokenizerError            tokenizer files are missing or unreadable
    ├── OutOfMemoryError          would not fit; raised before anything is allocated
    ├── ChatFormatError           messages that the model's chat format cannot express
    ├── RequestError              a request that can never run; names the field
    │   ├── ContextLengthError        prompt plus requested tokens exceed the model's context
    │   └── SchemaError               a schema or pattern that cannot be enforced; names the place in it
    ├── EngineError               the engine cannot go on
    │   ├── RequestAbortedError       the request was aborted before it finished
    │   └── IntegrityError            bookkeeping no longer adds up (a bug; please report)
    ├── ListenError               the server cannot listen at the address
    ├── KeyStoreError             the file of API keys cannot be used, or has no such key
    ├── AuditError                the audit log cannot be written, or was changed
    ├── BenchError                a measurement or price table that makes no sense; names the field or file
    ├── SandboxError              untrusted code was not run; names the cure
    │   └── SandboxUnavailableError   this machine cannot isolate it
    ├── AgentError                an agent run cannot start or go on; names the setting or file
    │   ├── EndpointError             the model's endpoint does not answer, refuses, or answers in rubbish
    │   ├── TrajectoryError           a run's record is missing, torn or of another version
    │   ├── RunNotFoundError          there is no such run, or it is somebody else's
    │   └── RunStateError             the run is not in a state in which that can be done
    ├── TravelError               a trip cannot be planned or read
    │   ├── TripRequestError          the request asks for something that does not exist; names the field
    │   └── TripDataError             a file of places or timetables is damaged; names file and line
    ├── TaskError                 a problem set or grader was asked for something impossible
    └── TrainingError             training cannot start or resume; names the cure
        └── CheckpointError           a training checkpoint is missing, torn or does not match

Every message names the field or file at fault and the cure.
"""


class DeepgroundError(Exception):
    """Base of all errors raised on purpose; its text is fit to be shown to a user."""


class ModelFolderError(DeepgroundError):
    """The folder is not a model that can be loaded."""


class UnsupportedModelError(ModelFolderError):
    """The checkpoint asks for a family, format or option that is not implemented."""


class ConfigError(ModelFolderError):
    """config.json is missing, unreadable, or a field is out of range."""


class WeightsError(ModelFolderError):
    """Tensors are missing, unknown, damaged or of the wrong shape."""


class UnsafeFileError(ModelFolderError):
    """The folder holds weights only as pickle or another format that could run code."""


class TokenizerError(ModelFolderError):
    """The tokenizer files are missing or unreadable."""


class OutOfMemoryError(DeepgroundError):
    """The model or cache would not fit; raised before anything is allocated."""


class ChatFormatError(DeepgroundError):
    """The messages cannot be expressed in the model's chat format."""


class RequestError(DeepgroundError):
    """A request that can never run.

    Args:
        message: what is wrong and how to put it right.
        field: the name of the request field at fault, if there is one.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ContextLengthError(RequestError):
    """Prompt plus requested tokens exceed the model's context."""


class SchemaError(RequestError):
    """A schema or pattern that is wrong, too costly, or holds something that cannot be enforced.

    Args:
        message: what is wrong and how to put it right; names the path.
        field: "output", or "tools" for the parameters of a tool.
        path: JSON pointer of the keyword at fault within the schema; empty: the schema as a whole.
        tool: position of the tool whose parameters are meant.
    """

    def __init__(self, message: str, *, field: str = "output", path: str = "", tool: int | None = None) -> None:
        super().__init__(message, field=field)
        self.path = path
        self.tool = tool


class EngineError(DeepgroundError):
    """The engine cannot go on."""


class RequestAbortedError(EngineError):
    """The request was aborted before it finished."""


class IntegrityError(EngineError):
    """The engine's bookkeeping no longer adds up, which is a bug."""


class ListenError(DeepgroundError):
    """The server cannot listen at the address it was given."""


class KeyStoreError(DeepgroundError):
    """The file of API keys cannot be used, or lacks or already has a key."""


class AuditError(DeepgroundError):
    """The audit log cannot be written or read, or was changed."""


class BenchError(DeepgroundError):
    """A measurement that was asked for, or a table of prices, makes no sense."""


class SandboxError(DeepgroundError):
    """Untrusted code was not run."""


class SandboxUnavailableError(SandboxError):
    """This machine cannot isolate a program; the text says why and names the cure."""


class AgentError(DeepgroundError):
    """An agent run cannot start or go on."""


class EndpointError(AgentError):
    """The model's endpoint does not answer, refuses the request, or sends something that is not an answer.

    Args:
        message: what happened and how to put it right.
        kind: "unreachable", "refused", "busy", "overflow" (the context is full), "malformed", "interrupted" or
            "timeout".
        retry_after: seconds that the endpoint asked to be left alone for.
    """

    def __init__(self, message: str, *, kind: str = "refused", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after = retry_after


class TrajectoryError(AgentError):
    """A run's record is missing, torn, in use, or of another version."""


class RunNotFoundError(AgentError):
    """There is no such run, or no such file of it; the same for one that belongs to somebody else."""


class RunStateError(AgentError):
    """The run is not in a state in which that can be done."""


class TravelError(DeepgroundError):
    """A trip cannot be planned or read."""


class TripRequestError(TravelError):
    """A field of a trip request is malformed or names something that is not in the database.

    Args:
        message: what is wrong and how to put it right.
        field: the name of the field at fault.
    """

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class TripDataError(TravelError):
    """A file of places or timetables cannot be read.

    Args:
        message: what is wrong and how to put it right.
        file: its name.
        line: counted from 1, if the fault is in one line.
    """

    def __init__(self, message: str, *, file: str, line: int | None = None) -> None:
        super().__init__(f"{file}{'' if line is None else f' line {line}'}: {message}")
        self.file = file
        self.line = line


class TaskError(DeepgroundError):
    """A problem set or a grader was asked for something impossible."""


class TrainingError(DeepgroundError):
    """Training cannot start or resume."""


class CheckpointError(TrainingError):
    """A training checkpoint is missing, torn, or does not match the run."""
