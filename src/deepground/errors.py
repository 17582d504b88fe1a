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
    │   └── ContextLengthError        prompt plus requested tokens exceed the model's context
    ├── EngineError               the engine cannot go on
    │   ├── RequestAbortedError       the request was aborted before it finished
    │   └── IntegrityError            bookkeeping no longer adds up (a bug; please report)
    ├── ListenError               the server cannot listen at the address
    ├── BenchError                a measurement or price table that makes no sense; names the field or file
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


class EngineError(DeepgroundError):
    """The engine cannot go on."""


class RequestAbortedError(EngineError):
    """The request was aborted before it finished."""


class IntegrityError(EngineError):
    """The engine's bookkeeping no longer adds up, which is a bug."""


class ListenError(DeepgroundError):
    """The server cannot listen at the address it was given."""


class BenchError(DeepgroundError):
    """A measurement that was asked for, or a table of prices, makes no sense."""


class TaskError(DeepgroundError):
    """A problem set or a grader was asked for something impossible."""


class TrainingError(DeepgroundError):
    """Training cannot start or resume."""


class CheckpointError(TrainingError):
    """A training checkpoint is missing, torn, or does not match the run."""
