"""Words that people type and may mistype: a type of event that nobody knows matches nothing, without a word."""

from collections.abc import Sequence

from cli.screen import plain, talk


def tell_unknown_types(types: Sequence[str]) -> None:
    """Say which are not of this runfold's vocabulary. A newer one may have written them, so they are no error."""
    from difflib import get_close_matches

    from runfold.events import EVENT_TYPES

    for name in types:
        if name not in EVENT_TYPES:
            near = get_close_matches(name, EVENT_TYPES, n=1, cutoff=0.7)
            hint = f"did you mean `{near[0]}`?" if near else "docs/events.md lists them"
            talk(f"note: no type of event is called `{plain(name, 60)}`; {hint}")
