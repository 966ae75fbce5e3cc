"""An archive where a run was typed: it is opened by itself, and nothing is imported."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from click import Context

from cli.reading import open_runs, settings_of
from cli.runs import Runs
from runfold.errors import BadRequest

SHOWN_MAX = 3


@contextmanager
def open_runs_or_archive(context: Context, text: str) -> Generator[tuple[Runs, str], None, None]:
    """Where to read, and the run to look for there: `FILE`, or `FILE#RUN` where it holds several."""
    settings = settings_of(context)
    name, _, run_text = text.partition("#")
    path = Path(name)
    if not (path.suffix or "/" in name) or not path.is_file():
        with open_runs(settings) as runs:
            yield runs, text
        return
    from cli.folder import open_folder
    from eventstore.keeping.archive import is_archive, open_archive
    from eventstore.keeping.restoring import opened_archive

    if not is_archive(path):
        raise BadRequest(f"`{path}` is no archive", hint=f"`runfold import {path}` reads recordings of other programs")
    with open_archive(path) as (manifest, _members):
        known = [run.run_id for run in manifest.runs]
    if not run_text and len(known) > 1:
        more = ", …" if len(known) > SHOWN_MAX else ""
        raise BadRequest(
            f"`{path}` holds {len(known)} runs", hint=f"name one as {path}#RUN: {', '.join(known[:SHOWN_MAX])}{more}"
        )
    with (
        opened_archive(path) as folder,
        open_folder(msgspec.structs.replace(settings, data=folder, url=None)) as runs,
    ):
        yield runs, run_text or known[0]
