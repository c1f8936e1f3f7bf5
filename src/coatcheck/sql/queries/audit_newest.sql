-- The newest entries of the audit trail that were asked for, in their order.
SELECT seq, at_us, actor, event, detail, hash
FROM (
    SELECT *
    FROM coatcheck.audit
    WHERE at_us >= coalesce(%(since)s::bigint, at_us) AND event = ANY (coalesce(%(events)s::text[], ARRAY[event]))
    ORDER BY seq DESC
    LIMIT %(limit)s
) AS newest
ORDER BY seq
