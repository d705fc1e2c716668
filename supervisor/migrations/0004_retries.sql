-- Until then an execution waits for another attempt, and is not in line. NULL: it is, or does not wait.
ALTER TABLE executions ADD COLUMN not_before INTEGER CHECK (not_before IS NULL OR status = 'PENDING');

-- {key: value} of the agent's retry policy, as the attempt was launched. NULL: there is none.
ALTER TABLE attempts ADD COLUMN retry TEXT CHECK (json_type(retry) = 'object');
ALTER TABLE attempts ADD COLUMN error_log TEXT;

-- Who waits for another attempt is not in the queue, so however many they are, a claim does not look at them.
DROP INDEX executions_waiting;
CREATE INDEX executions_waiting ON executions (agent_id, priority DESC, seq)
WHERE status = 'PENDING' AND not_before IS NULL;
CREATE INDEX executions_waiting_for_retry ON executions (not_before) WHERE not_before IS NOT NULL;
