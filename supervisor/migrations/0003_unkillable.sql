-- Since when an attempt outlives SIGKILL. NULL: it does not, or nobody has tried.
ALTER TABLE attempts ADD COLUMN unkillable_since INTEGER;

-- A new kind of event: a CHECK cannot be changed in place. Source: sqlite.org/lang_altertable.html, section 7.
CREATE TABLE events_next (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    execution_seq INTEGER NOT NULL REFERENCES executions (seq) ON DELETE CASCADE,
    attempt       INTEGER NOT NULL,
    kind          TEXT    NOT NULL CHECK (kind IN ('status', 'progress', 'kill', 'unkillable')),
    data          TEXT    NOT NULL CHECK (json_valid(data)),
    at            INTEGER NOT NULL
) STRICT;

-- A number is not used again, even after its row was deleted. Source: sqlite.org/autoinc.html.
INSERT INTO sqlite_sequence (name, seq) SELECT 'events_next', seq FROM sqlite_sequence WHERE name = 'events';
INSERT INTO events_next SELECT id, execution_seq, attempt, kind, data, at FROM events;
DROP TABLE events;
ALTER TABLE events_next RENAME TO events;

CREATE INDEX events_of_execution ON events (execution_seq, id);

CREATE TRIGGER events_are_append_only BEFORE UPDATE ON events
BEGIN
    SELECT RAISE(ABORT, 'cannot change event: events are append-only');
END;
