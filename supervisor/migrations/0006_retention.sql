-- Those that have ended, in the order in which they are removed.
CREATE INDEX executions_ended ON executions (completed_at) WHERE completed_at IS NOT NULL;
