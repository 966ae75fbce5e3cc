"""Random ids are those of RFC 9562, and no two processes make the same."""

import subprocess
import sys
import uuid

from eventstore.random_ids import random_id

FORKS = """
import os
from eventstore.random_ids import random_id
random_id()
child = os.fork()
print(random_id(), flush=True)
if child:
    os.waitpid(child, 0)
"""


def test_a_random_id_is_a_version_4_uuid_in_canonical_text_and_never_comes_twice() -> None:
    ids = [random_id() for _ in range(1_000)]

    assert len(set(ids)) == len(ids)
    assert {(uuid.UUID(text).version, uuid.UUID(text).variant) for text in ids} == {(4, uuid.RFC_4122)}
    assert [str(uuid.UUID(text)) for text in ids] == ids


def test_a_process_and_its_fork_make_different_ids() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True, timeout=30)

    first, second = done.stdout.split()
    assert first != second
