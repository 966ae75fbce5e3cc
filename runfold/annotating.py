"""What people write on a run: its title, its labels and notes, which say nothing of how it went."""

from typing import TypeAlias

from runfold.commands import Annotate
from runfold.errors import BadRequest, NotAllowed
from runfold.events import LabelChanged, NoteAdded, TitleChanged
from runfold.evolve import LABELS_MAX
from runfold.state import Run

KEY_CHARACTERS_MAX = 100
VALUE_CHARACTERS_MAX = 1_000
NOTE_CHARACTERS_MAX = 10_000
LABELS_CHANGED_MAX = 2 * LABELS_MAX  # All that a run has, and as many new ones.
Written: TypeAlias = TitleChanged | LabelChanged | NoteAdded


def annotate(run: Run, command: Annotate) -> tuple[Written, ...]:
    """Only what is new makes an event. Raises BadRequest, NotAllowed where the run would have too many labels."""
    _check(command)
    left = len({**run.labels, **command.labels}) - sum(value is None for value in command.labels.values())
    if left > max(LABELS_MAX, len(run.labels)):
        raise NotAllowed(
            f"run `{run.run_id}` would have more than {LABELS_MAX} labels",
            hint="remove one, or change one",
            run_id=run.run_id,
        )
    written: list[Written] = []
    if command.title is not None and command.title != run.title:
        written.append(TitleChanged(title=command.title))
    # What goes makes room for what comes.
    for key, value in sorted(command.labels.items(), key=lambda pair: pair[1] is not None):
        if run.labels.get(key) != value:
            written.append(LabelChanged(key=key, value=value))
    if command.note:
        written.append(NoteAdded(text=command.note))
    return tuple(written)


def _check(command: Annotate) -> None:
    for key, value in command.labels.items():
        if not key or len(key) > KEY_CHARACTERS_MAX or "=" in key or not key.isprintable():
            raise BadRequest(
                f"`{key[:KEY_CHARACTERS_MAX]!a}` is no key of a label",
                hint=f"1 to {KEY_CHARACTERS_MAX} printable characters without `=`",
            )
        if value is not None and len(value) > VALUE_CHARACTERS_MAX:
            raise BadRequest(
                f"the value of label `{key}` is too long", hint=f"at most {VALUE_CHARACTERS_MAX} characters"
            )
    if len(command.title or "") > VALUE_CHARACTERS_MAX or len(command.note) > NOTE_CHARACTERS_MAX:
        raise BadRequest(
            "the title or the note is too long",
            hint=f"at most {VALUE_CHARACTERS_MAX} and {NOTE_CHARACTERS_MAX} characters",
        )
