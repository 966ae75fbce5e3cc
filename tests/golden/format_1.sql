-- The log: one append-only table, what is derived from it in the same transaction, and nothing else.
PRAGMA application_id = 0x52554E46;  -- 'RUNF'
PRAGMA user_version = 1;

-- Positions come from here, never from AUTOINCREMENT, which burns and reuses numbers.
CREATE TABLE head (
    one            INTEGER PRIMARY KEY CHECK (one = 1),
    log_id         TEXT    NOT NULL,  -- names this log for ever; a copy restored elsewhere keeps it
    position       INTEGER NOT NULL,  -- of the last event; 0 in a new log
    recorded_at_us INTEGER NOT NULL,  -- of the last event; never decreases, whatever the clock does
    trimmed_to     INTEGER NOT NULL   -- everything up to here may be gone
) STRICT;

CREATE TABLE events (
    position       INTEGER PRIMARY KEY,
    run_id         TEXT    NOT NULL,
    version        INTEGER NOT NULL,  -- 1, 2, 3 … within the run
    id             BLOB    NOT NULL CHECK (length(id) = 16),
    type           TEXT    NOT NULL,
    schema         INTEGER NOT NULL,
    at_us          INTEGER NOT NULL,  -- when it happened, by the reporter's clock
    recorded_at_us INTEGER NOT NULL,  -- when the log took it
    tenant         TEXT    NOT NULL,
    actor          TEXT    NOT NULL,
    cause          BLOB,
    command        BLOB,
    sent           BLOB,              -- digest of what the caller sent, before redaction and price
    correlation    TEXT    NOT NULL,
    salt           BLOB,              -- goes with the data, so that a redacted text cannot be guessed from its digest
    data           BLOB,              -- NULL, or what is left of it: redacted
    digest         BLOB,              -- sha256(salt, data) of what it was, kept only where it is redacted
    hash           BLOB    NOT NULL,  -- the run's chain up to here
    UNIQUE (run_id, version),
    CHECK ((salt IS NULL) = (digest IS NOT NULL) AND (data IS NOT NULL OR digest IS NOT NULL))
) STRICT;

-- An id is known or new within its run. Those that follow time (v7, and v8 as they are derived from them) stand in its
-- order: what many runs append at once goes into the same pages. Those that are drawn by chance stand by run.
CREATE UNIQUE INDEX events_by_id ON events (id, run_id) WHERE substr(id, 7, 1) >= x'70';
CREATE UNIQUE INDEX events_by_run_and_id ON events (run_id, id) WHERE substr(id, 7, 1) < x'70';
CREATE INDEX events_by_command ON events (command, run_id) WHERE substr(command, 7, 1) >= x'70';
CREATE INDEX events_by_run_and_command ON events (run_id, command) WHERE substr(command, 7, 1) < x'70';

-- The last event of each run: what `expected` is compared with.
CREATE TABLE heads (
    run_id   TEXT    PRIMARY KEY,
    position INTEGER NOT NULL,
    version  INTEGER NOT NULL,
    hash     BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE anchors (
    position INTEGER PRIMARY KEY,
    digest   BLOB NOT NULL,
    previous BLOB NOT NULL            -- the digest of the anchor before; empty in the first
) STRICT;

-- History is not edited by accident; only redaction, which keeps the hash, passes.
CREATE TRIGGER events_stay AFTER UPDATE ON events
WHEN NEW.digest IS NULL OR NEW.hash IS NOT OLD.hash OR NEW.position IS NOT OLD.position
    OR (OLD.digest IS NOT NULL AND NEW.digest IS NOT OLD.digest)
BEGIN
    SELECT RAISE(ABORT, 'events of the log are never changed');
END;

CREATE TRIGGER events_remain BEFORE DELETE ON events
BEGIN
    SELECT RAISE(ABORT, 'events of the log are never deleted');
END;
