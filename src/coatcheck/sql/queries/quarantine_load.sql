-- A held message's row, loaded once: whoever turns 'held' into 'loaded' inserts the row, in one statement.
WITH released AS (
    UPDATE coatcheck.quarantine
    SET state = 'loaded', resolved_at = now(), resolved_by = session_user
    WHERE quarantine_id = %(quarantine_id)s AND state = 'held'
    RETURNING quarantine_id
)
INSERT INTO {target} ({columns})
SELECT {fields}
FROM unnest({arrays}) AS batch ({names}), released
