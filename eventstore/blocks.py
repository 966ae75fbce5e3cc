"""The events of one run: from one block of the log to the next, and in each by the block's part of the index.

The newest events of all runs share the pages of one block, so a commit for many runs writes few of them, see
`docs/decisions/0053-runs-are-found-from-block-to-block.md`. The schema's triggers know which blocks hold a run.
"""

BLOCK_BITS = 10  # The positions of a block differ in so many bits only: it holds 1,024 of them.
OF_RUN = "run_blocks CROSS JOIN events USING (run_id, block)"
"""To select from where one run is asked for (`run_id = ?`). In this order SQLite goes from block to block.

`ORDER BY block, version` is the order of the log, and costs nothing. With only a version SQLite looks into every block
of the run; who knows a position names its block, as the conditions here do for their second and third value.
"""
# The signs keep SQLite from going through the positions of all runs.
AFTER = f"run_id = ?1 AND block >= ?2 >> {BLOCK_BITS} AND +position > ?2"
UPTO = f"run_id = ?1 AND block <= ?2 >> {BLOCK_BITS} AND +position <= ?2"
BETWEEN = f"{AFTER} AND block <= ?3 >> {BLOCK_BITS} AND +position <= ?3"
VERSION_AT = (
    "coalesce((SELECT version FROM events WHERE position = ?2 AND run_id = ?1),"  # noqa: S608
    f" (SELECT version FROM {OF_RUN} WHERE {UPTO} ORDER BY block DESC, version DESC LIMIT 1), 0)"
)
"""The version of the run's last event up to a position; 0 where it has none."""
IS_FOUND = (
    "EXISTS (SELECT 1 FROM run_blocks AS known CROSS JOIN events AS found INDEXED BY events_by_block"
    " USING (run_id, block) WHERE known.run_id = events.run_id AND known.block = events.block"
    " AND found.version = events.version AND +found.position = events.position)"
)
"""Whether who reads the run of an event comes to it: so it is, unless the file was altered."""
BEYOND_ALL = 2**62
"""A position that no event has."""
DELETE_BEFORE = (
    f"DELETE FROM events WHERE position IN (SELECT position FROM {OF_RUN} WHERE run_id = ? AND +position < ?)"  # noqa: S608
)


def block_of(position: int) -> int:
    return position >> BLOCK_BITS
