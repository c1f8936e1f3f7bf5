-- serves: 0005
-- What is watched but not by the road itself: how much waits in the quarantine, how often originals came back.
-- Runs in one transaction, under an advisory lock, by `coatcheck migrate`; safe while workers run.

-- Counts for metrics, and nothing but counts. Runs as its owner, because a loader reads neither quarantine nor desk.
CREATE FUNCTION coatcheck.figures() RETURNS TABLE (figure text, label text, value bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
    SELECT 'held', reason, count(*) FROM coatcheck.quarantine WHERE state = 'held' GROUP BY reason
    UNION ALL SELECT 'reveals', 'requested', count(*) FROM coatcheck.reveal_request
    UNION ALL SELECT 'reveals', 'denied', count(denied_at) FROM coatcheck.reveal_request
    UNION ALL SELECT 'reveals', 'approved', count(*) FROM coatcheck.reveal_approval
    UNION ALL SELECT 'reveals', 'opened', count(*) FROM coatcheck.reveal_opening
$$;

REVOKE ALL ON FUNCTION coatcheck.figures() FROM PUBLIC;
