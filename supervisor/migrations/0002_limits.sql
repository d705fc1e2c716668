-- {name: number} of all limits; NULL in rows that are older, and for an attempt that could not be launched.

ALTER TABLE executions ADD COLUMN limits TEXT CHECK (json_type(limits) = 'object');  -- as they were when it was submitted
ALTER TABLE attempts ADD COLUMN limits TEXT CHECK (json_type(limits) = 'object');    -- as they are enforced
