"""The domain of runfold: what may be asked, what can happen, and what a run is; pure functions and frozen Structs.

A program that reports its own run imports `run` from here: the client is loaded only then.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runfold.client.failing import Cancelled as Cancelled
    from runfold.client.failing import Interrupted as Interrupted
    from runfold.client.failing import Stopped as Stopped
    from runfold.client.parts import Step as Step
    from runfold.client.parts import Unit as Unit
    from runfold.client.running import Run as Run
    from runfold.client.running import run as run
    from runfold.errors import RunfoldError as RunfoldError

__version__ = "0.1.0"
_PUBLIC = {
    "Cancelled": "runfold.client.failing",
    "Interrupted": "runfold.client.failing",
    "Run": "runfold.client.running",
    "RunfoldError": "runfold.errors",
    "Step": "runfold.client.parts",
    "Stopped": "runfold.client.failing",
    "Unit": "runfold.client.parts",
    "run": "runfold.client.running",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module `runfold` has no attribute `{name}`")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)
