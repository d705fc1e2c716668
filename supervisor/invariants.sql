-- What is true of all rows at every moment. Each statement returns (id of an execution, what is wrong with it) for each
-- that breaks a rule; the comment says the rule. Each takes a time that grows with the rows, not faster.

-- name: status_path
-- The first status is PENDING, and each later one follows from the one before by the table of states.
SELECT e.id, printf('its status went from %s to %s', steps.before, steps.after)
FROM (
    SELECT execution_seq, said AS after, lag(said, 1, 'nothing') OVER (PARTITION BY execution_seq ORDER BY id) AS before
    FROM (SELECT execution_seq, id, json_extract(data, '$.status') AS said FROM events WHERE kind = 'status')
) AS steps
JOIN executions AS e ON e.seq = steps.execution_seq
WHERE steps.before || '>' || steps.after NOT IN (SELECT value FROM json_each(:moves));

-- name: status_is_recorded
-- The status is that of the last status event.
SELECT id, printf('its status is %s, its last event says %s', status, coalesce(recorded, 'nothing'))
FROM (
    SELECT id, status, (
        SELECT json_extract(data, '$.status') FROM events
        WHERE execution_seq = seq AND kind = 'status' ORDER BY events.id DESC LIMIT 1
    ) AS recorded
    FROM executions
)
WHERE recorded IS NOT status;

-- name: end_is_last
-- Nothing happens to an execution that has ended.
SELECT e.id, printf('an event of kind %s follows its end', v.kind)
FROM executions AS e JOIN events AS v ON v.id = (SELECT max(id) FROM events WHERE execution_seq = e.seq)
WHERE e.completed_at IS NOT NULL AND v.kind != 'status';

-- name: attempts_are_counted
-- Attempts are numbered from 1 without a gap, and the execution has the number of the last.
SELECT e.id, printf('it is at attempt %d, and there are %d, the last is %d', e.attempt, count(a.attempt), max(a.attempt))
FROM executions AS e LEFT JOIN attempts AS a ON a.execution_seq = e.seq
GROUP BY e.seq
HAVING count(a.attempt) != e.attempt OR coalesce(max(a.attempt), 0) != e.attempt;

-- name: live_attempt_is_the_last
-- An attempt that has not ended is the last one of an execution that is live.
SELECT e.id, printf('its attempt %d has not ended, but it is %s at attempt %d', a.attempt, e.status, e.attempt)
FROM attempts AS a JOIN executions AS e ON e.seq = a.execution_seq
WHERE a.ended_at IS NULL AND (a.attempt != e.attempt OR e.status NOT IN ('RUNNING', 'CANCEL_REQUESTED'));

-- name: live_execution_has_an_attempt
-- The last attempt of an execution that is live has not ended.
SELECT e.id, printf('it is %s, but its attempt %d has ended or is not there', e.status, e.attempt)
FROM executions AS e LEFT JOIN attempts AS a ON a.execution_seq = e.seq AND a.attempt = e.attempt
WHERE e.status IN ('RUNNING', 'CANCEL_REQUESTED') AND (a.attempt IS NULL OR a.ended_at IS NOT NULL);

-- name: result_or_error
-- COMPLETED is what has a result; what has ended otherwise has an error log.
SELECT id, printf('it is %s and has %s', status, CASE
    WHEN final_result IS NOT NULL AND error_log IS NOT NULL THEN 'a result and an error log'
    WHEN final_result IS NOT NULL THEN 'a result'
    WHEN error_log IS NOT NULL THEN 'an error log'
    ELSE 'neither a result nor an error log' END)
FROM executions
WHERE (status = 'COMPLETED') != (final_result IS NOT NULL)
   OR (status IN ('FAILED', 'CANCELED')) != (error_log IS NOT NULL);

-- name: completed_is_exited_ok
-- COMPLETED is what ended as EXITED_OK, and its last attempt too; nothing else did.
SELECT id, printf('it is %s, but ended as %s and its last attempt as %s',
    status, coalesce(code, 'nothing'), coalesce(attempt_code, 'nothing'))
FROM (
    SELECT e.id, e.status, json_extract(e.termination, '$.code') AS code,
           json_extract(a.termination, '$.code') AS attempt_code
    FROM executions AS e LEFT JOIN attempts AS a ON a.execution_seq = e.seq AND a.attempt = e.attempt
)
WHERE (status = 'COMPLETED') != (code IS 'EXITED_OK') OR (status = 'COMPLETED') != (attempt_code IS 'EXITED_OK');

-- name: nothing_survives
-- No process of an attempt that has ended lives.
SELECT e.id, printf('%d processes of attempt %d lived at its end', json_extract(a.kill, '$.survivors'), a.attempt)
FROM attempts AS a JOIN executions AS e ON e.seq = a.execution_seq
WHERE json_extract(a.kill, '$.survivors') != 0;
