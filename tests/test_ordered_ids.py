"""Ids of our own are those of RFC 9562, follow time, and no two processes make the same."""

import subprocess
import sys
import time
import uuid

from runfold.ordered_ids import numbered_ids, ordered_id

FORKS = """
import os
from runfold.ordered_ids import ordered_id
ordered_id()
child = os.fork()
os.write(1, ordered_id().encode() + b"\\n")
if child:
    os.waitpid(child, 0)
"""


def test_an_ordered_id_is_a_version_7_uuid_in_canonical_text_and_never_comes_twice() -> None:
    ids = [ordered_id() for _ in range(1_000)]

    assert len(set(ids)) == len(ids)
    assert {(uuid.UUID(text).version, uuid.UUID(text).variant) for text in ids} == {(7, uuid.RFC_4122)}
    assert [str(uuid.UUID(text)) for text in ids] == ids


def test_an_ordered_id_begins_with_the_millisecond_in_which_it_was_made() -> None:
    before = time.time_ns() // 1_000_000

    made = [uuid.UUID(ordered_id()).int >> 80 for _ in range(1_000)]

    assert before <= made[0]
    assert made == sorted(made)
    assert made[-1] <= time.time_ns() // 1_000_000


def test_a_process_and_its_fork_make_different_ids() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True, timeout=30)

    first, second = done.stdout.split()
    assert first != second


def test_the_ids_of_a_commands_events_are_version_7_uuids_beside_its_own() -> None:
    command = ordered_id()

    ids = numbered_ids(command, 1_000)

    assert len({command, *ids}) == len(ids) + 1
    assert {uuid.UUID(text).int >> 16 for text in ids} == {uuid.UUID(command).int >> 16}
    assert [str(uuid.UUID(text)) for text in ids] == ids
