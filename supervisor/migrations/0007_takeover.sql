-- The launcher that was to launch an attempt. NULL in rows that are older.
ALTER TABLE attempts ADD COLUMN launcher TEXT;

-- How far into what the live attempt says its progress is recorded, in bytes.
ALTER TABLE executions ADD COLUMN progress_offset INTEGER NOT NULL DEFAULT 0;

-- The one supervisor that may record: the last one that has taken over.
CREATE TABLE supervisor (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    node  TEXT NOT NULL,
    boot  TEXT NOT NULL,
    epoch TEXT NOT NULL
) STRICT;
