-- Instants are integer microseconds since the epoch, UTC. JSON is text.

CREATE TABLE executions (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,     -- age: never reused, even after deletes
    id           TEXT    NOT NULL UNIQUE CHECK (length(id) = 36),
    agent_id     TEXT    NOT NULL,
    agent_name   TEXT    NOT NULL,
    status       TEXT    NOT NULL DEFAULT 'PENDING'
                 CHECK (status IN ('PENDING', 'RUNNING', 'CANCEL_REQUESTED', 'COMPLETED', 'FAILED', 'CANCELED')),
    priority     INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 100),
    payload      TEXT    NOT NULL CHECK (json_type(payload) = 'object'),
    attempt      INTEGER NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    created_at   INTEGER NOT NULL,
    started_at   INTEGER,
    completed_at INTEGER,
    progress     TEXT,
    final_result TEXT CHECK (json_type(final_result) = 'object'),
    error_log    TEXT,
    termination  TEXT CHECK (json_type(termination) = 'object'),
    CHECK ((status IN ('COMPLETED', 'FAILED', 'CANCELED')) = (completed_at IS NOT NULL)),
    CHECK ((completed_at IS NULL) = (termination IS NULL)),
    CHECK ((status = 'COMPLETED') = (final_result IS NOT NULL)),
    CHECK (status != 'PENDING' OR started_at IS NULL),
    CHECK (status NOT IN ('RUNNING', 'CANCEL_REQUESTED', 'COMPLETED') OR started_at IS NOT NULL)
) STRICT;

-- The queue: who is first within one agent is at the end of one index search, however long the queue is.
CREATE INDEX executions_waiting ON executions (agent_id, priority DESC, seq) WHERE status = 'PENDING';
CREATE INDEX executions_live ON executions (status) WHERE status IN ('RUNNING', 'CANCEL_REQUESTED');

CREATE TRIGGER executions_end_is_final BEFORE UPDATE ON executions
WHEN OLD.status IN ('COMPLETED', 'FAILED', 'CANCELED')
BEGIN
    SELECT RAISE(ABORT, 'cannot change execution: it has ended');
END;

CREATE TABLE attempts (
    execution_seq INTEGER NOT NULL REFERENCES executions (seq) ON DELETE CASCADE,
    attempt       INTEGER NOT NULL CHECK (attempt >= 1),
    node          TEXT    NOT NULL,                     -- the machine that runs it
    boot          TEXT    NOT NULL,                     -- that machine's boot
    epoch         TEXT    NOT NULL,                     -- the supervisor's start
    agent_digest  TEXT,                                 -- of the agent's folder, as it was launched
    claimed_at    INTEGER NOT NULL,
    ended_at      INTEGER,
    termination   TEXT CHECK (json_type(termination) = 'object'),
    usage         TEXT CHECK (json_type(usage) = 'object'),
    kill          TEXT CHECK (json_type(kill) = 'object'),
    isolation     TEXT CHECK (json_type(isolation) = 'object'),
    PRIMARY KEY (execution_seq, attempt),
    CHECK ((ended_at IS NULL) = (termination IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TRIGGER attempts_end_is_final BEFORE UPDATE ON attempts
WHEN OLD.ended_at IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'cannot change attempt: it has ended');
END;

CREATE TABLE events (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    execution_seq INTEGER NOT NULL REFERENCES executions (seq) ON DELETE CASCADE,
    attempt       INTEGER NOT NULL,
    kind          TEXT    NOT NULL CHECK (kind IN ('status', 'progress', 'kill')),
    data          TEXT    NOT NULL CHECK (json_valid(data)),
    at            INTEGER NOT NULL
) STRICT;

CREATE INDEX events_of_execution ON events (execution_seq, id);

CREATE TRIGGER events_are_append_only BEFORE UPDATE ON events
BEGIN
    SELECT RAISE(ABORT, 'cannot change event: events are append-only');
END;
