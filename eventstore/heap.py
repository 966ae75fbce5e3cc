"""A process that lives long is not held up by looks for garbage: they are rare, and pass over what was there before it.

The thousands of functions and classes of the imported modules never go; a full collection walked through all of them
each time, and stopped every thread for 50 ms.
"""

import gc
from collections.abc import Generator
from contextlib import contextmanager

NEW_OBJECTS_MAX = 10_000  # Before the young are looked at, which takes 2 to 5 ms.
YOUNG_LOOKS = 10
MIDDLE_LOOKS = 10  # So at most a million new objects wait for a look at all that came since the start.


@contextmanager
def long_lived() -> Generator[None]:
    """Enter it when everything is opened; it may be entered again."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS_MAX, YOUNG_LOOKS, MIDDLE_LOOKS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
