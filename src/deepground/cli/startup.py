"""What makes commands start sooner."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Pause the garbage collector while modules are imported, and leave what they made out of its later rounds.

    Importing torch and a web framework makes 300,000 objects, most of which stay. Looking through them over and over
    takes an eighth of the imports' time, and later a tenth of a second of somebody's reply at every full round.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        # At the interpreter's end all objects must be within reach again, or extension modules find theirs leaked.
        atexit.register(gc.unfreeze)
