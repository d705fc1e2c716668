-- Every statement of the store, by name. The text after "-- name:" is how store.py asks for it.

-- name: insert_execution
INSERT INTO executions (id, agent_id, agent_name, priority, payload, limits, created_at)
VALUES (:id, :agent_id, :agent_name, :priority, :payload, :limits, :now);

-- name: get_key
SELECT fingerprint, execution_id FROM idempotency_keys WHERE key = :key AND created_at > :expired;

-- name: set_key
-- In place of one that has expired.
REPLACE INTO idempotency_keys (key, fingerprint, execution_id, created_at) VALUES (:key, :fingerprint, :id, :now);

-- name: delete_expired_keys
DELETE FROM idempotency_keys WHERE key IN (
    SELECT key FROM idempotency_keys WHERE created_at <= :expired ORDER BY created_at LIMIT :most
);

-- name: touch
-- Writes the first page, and changes nothing: an update of a row to what it is would not write at all.
PRAGMA user_version = 0;

-- name: insert_event
INSERT INTO events (execution_seq, attempt, kind, data, at)
SELECT seq, attempt, :kind, :data, :now FROM executions WHERE id = :id;

-- name: get_execution
SELECT e.id, e.agent_id, e.agent_name, e.status, e.priority, e.payload, e.final_result, e.error_log, e.attempt,
       e.created_at, e.started_at, e.completed_at, e.progress, e.termination, a.usage, a.kill, a.isolation,
       coalesce(a.limits, e.limits), a.unkillable_since, e.not_before,
       (SELECT json_group_array(json_object(
            'attempt', attempt, 'started_at', claimed_at, 'completed_at', ended_at, 'termination', json(termination),
            'error_log', error_log, 'usage', json(usage), 'kill', json(kill), 'isolation', json(isolation)))
        FROM (SELECT * FROM attempts WHERE execution_seq = e.seq ORDER BY attempt))
FROM executions AS e
LEFT JOIN attempts AS a ON a.execution_seq = e.seq AND a.attempt = e.attempt
WHERE e.id = :id;

-- name: claim
-- The waiting agents are found by hopping from one to the next in the index, then each agent's first in line is one
-- search: the cost grows with the number of agents that wait, not with the number of executions.
WITH RECURSIVE waiting (agent_id) AS (
    SELECT min(agent_id) FROM executions WHERE status = 'PENDING' AND not_before IS NULL
    UNION ALL
    SELECT (SELECT min(agent_id) FROM executions
            WHERE status = 'PENDING' AND not_before IS NULL AND agent_id > waiting.agent_id)
    FROM waiting WHERE waiting.agent_id IS NOT NULL
),
first_in_line (seq) AS (
    SELECT (SELECT seq FROM executions
            WHERE status = 'PENDING' AND not_before IS NULL AND agent_id = waiting.agent_id
            ORDER BY priority DESC, seq LIMIT 1)
    FROM waiting
    WHERE waiting.agent_id IS NOT NULL AND waiting.agent_id NOT IN (SELECT value FROM json_each(:full_agents))
)
UPDATE executions
SET status = 'RUNNING', attempt = attempt + 1, started_at = :now, progress_offset = 0
WHERE status = 'PENDING' AND seq = (
    SELECT e.seq FROM first_in_line JOIN executions AS e USING (seq) ORDER BY e.priority DESC, e.seq LIMIT 1
)
RETURNING id, attempt, agent_id, payload, limits;

-- name: insert_attempt
INSERT INTO attempts (execution_seq, attempt, node, boot, epoch, launcher, agent_digest, limits, retry, claimed_at)
SELECT seq, attempt, :node, :boot, :epoch, :launcher, :agent_digest, :limits, :retry, :now
FROM executions WHERE id = :id;

-- name: get_status
SELECT status, attempt FROM executions WHERE id = :id;

-- name: set_cancel_requested
UPDATE executions SET status = 'CANCEL_REQUESTED' WHERE id = :id AND status = 'RUNNING';

-- name: set_progress
UPDATE executions SET progress = :data, progress_offset = :offset
WHERE id = :id AND attempt = :attempt AND status IN ('RUNNING', 'CANCEL_REQUESTED');

-- name: set_unkillable
UPDATE attempts SET unkillable_since = :since
WHERE execution_seq = (SELECT seq FROM executions WHERE id = :id)
  AND attempt = :attempt AND ended_at IS NULL AND unkillable_since IS NULL;

-- name: end_execution
UPDATE executions
SET status = :status, completed_at = :now, final_result = :result, error_log = :error_log, termination = :termination,
    not_before = NULL
WHERE id = :id AND status = :from_status AND attempt = :attempt;

-- name: end_attempt
UPDATE attempts
SET ended_at = :now, termination = :termination, error_log = :error_log, usage = :usage, kill = :kill,
    isolation = :isolation
WHERE execution_seq = (SELECT seq FROM executions WHERE id = :id)
  AND attempt = :attempt AND node = :node AND epoch = :epoch AND ended_at IS NULL;

-- name: get_retry
SELECT a.retry
FROM executions AS e JOIN attempts AS a ON a.execution_seq = e.seq AND a.attempt = e.attempt
WHERE e.id = :id;

-- name: wait_for_retry
UPDATE executions SET status = 'PENDING', started_at = NULL, progress = NULL, not_before = :not_before
WHERE id = :id AND status = :from_status AND attempt = :attempt;

-- name: put_in_line
UPDATE executions SET not_before = NULL
WHERE seq IN (SELECT seq FROM executions WHERE not_before <= :due ORDER BY not_before LIMIT :most);

-- name: get_first_not_before
SELECT min(not_before) FROM executions WHERE not_before IS NOT NULL;

-- name: list_cancel_requested
-- A partial index is used only for a query that repeats its condition: sqlite.org/partialindex.html, section 3.
SELECT id, attempt FROM executions WHERE status IN ('RUNNING', 'CANCEL_REQUESTED') AND status = 'CANCEL_REQUESTED';

-- name: list_live_attempts
SELECT e.id, e.attempt, e.status, a.node, a.boot, a.epoch, a.launcher, e.progress_offset, a.unkillable_since
FROM executions AS e JOIN attempts AS a ON a.execution_seq = e.seq AND a.attempt = e.attempt
WHERE e.status IN ('RUNNING', 'CANCEL_REQUESTED');

-- name: list_unkillable
SELECT e.id, a.unkillable_since
FROM executions AS e JOIN attempts AS a ON a.execution_seq = e.seq AND a.attempt = e.attempt
WHERE e.status IN ('RUNNING', 'CANCEL_REQUESTED') AND a.unkillable_since IS NOT NULL
ORDER BY a.unkillable_since, e.seq;

-- name: count_ended
-- With the number of the last event of that moment.
SELECT count(*) AS executions, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0) AS last_event
FROM executions WHERE completed_at IS NOT NULL;

-- name: last_event
SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0);

-- name: list_ended_between
-- An execution has one event with a final status, and events get their numbers in the order of the commits.
SELECT e.id FROM events AS v JOIN executions AS e ON e.seq = v.execution_seq
WHERE v.id > :after AND v.id <= :until AND v.kind = 'status' AND e.completed_at IS NOT NULL
  AND json_extract(v.data, '$.status') IN ('COMPLETED', 'FAILED', 'CANCELED');

-- name: list_known
-- Of those with the given ids; and whether they had ended when the given event was the last one.
SELECT e.id, e.completed_at IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM events WHERE execution_seq = e.seq AND events.id > :last_event) AS ended
FROM executions AS e WHERE e.id IN (SELECT value FROM json_each(:ids));

-- name: list_oldest_ended
SELECT seq, id, completed_at FROM executions WHERE completed_at IS NOT NULL ORDER BY completed_at, seq LIMIT :count;

-- name: delete_progress
DELETE FROM events WHERE id IN (SELECT id FROM events WHERE execution_seq = :seq AND kind = 'progress' LIMIT :count);

-- name: delete_ended
-- With its attempts and its other events, by ON DELETE CASCADE.
DELETE FROM executions WHERE seq = :seq AND completed_at IS NOT NULL;

-- name: set_supervisor
INSERT OR REPLACE INTO supervisor (one, node, boot, epoch) VALUES (1, :node, :boot, :epoch);

-- name: is_supervisor
SELECT 1 FROM supervisor WHERE node = :node AND boot = :boot AND epoch = :epoch;

-- name: take_over_attempts
UPDATE attempts SET epoch = :epoch
WHERE node = :node AND boot = :boot AND ended_at IS NULL AND (execution_seq, attempt) IN (
    SELECT seq, attempt FROM executions WHERE status IN ('RUNNING', 'CANCEL_REQUESTED')
);

-- name: delete_attempt
DELETE FROM attempts
WHERE execution_seq = (SELECT seq FROM executions WHERE id = :id) AND attempt = :attempt AND ended_at IS NULL;

-- name: unclaim
UPDATE executions SET status = 'PENDING', attempt = attempt - 1, started_at = NULL
WHERE id = :id AND attempt = :attempt AND status = 'RUNNING';
