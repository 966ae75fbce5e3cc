"""Whether files of a workspace are told while a turn works, which takes a package that is not always there."""

import importlib.util

WATCHER_HINT = "pip install 'runfold[watch]'"


def is_watcher_there() -> bool:
    """Asked without loading it."""
    return importlib.util.find_spec("watchfiles") is not None
