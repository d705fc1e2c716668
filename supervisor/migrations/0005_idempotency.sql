-- Whose file it is ("Corr", see database.py).
PRAGMA application_id = 1131377266;

-- What was submitted under a client's own key. Not a reference: an execution may be removed before its key is.
CREATE TABLE idempotency_keys (
    key          TEXT    PRIMARY KEY CHECK (length(key) BETWEEN 1 AND 255),
    fingerprint  BLOB    NOT NULL CHECK (length(fingerprint) = 32),     -- SHA-256 of what the request asked for
    execution_id TEXT    NOT NULL CHECK (length(execution_id) = 36),
    created_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
