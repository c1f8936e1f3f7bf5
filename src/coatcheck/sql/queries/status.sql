-- What an operator asks first: loads of the last minute, the newest commit, its lag, and quarantine by reason.
SELECT
    (SELECT coalesce(sum(loaded), 0) FROM coatcheck.batch WHERE committed_at > now() - interval '1 minute')::bigint,
    (SELECT coalesce(sum(duplicates), 0) FROM coatcheck.batch WHERE committed_at > now() - interval '1 minute')::bigint,
    (SELECT max(committed_at) FROM coatcheck.batch),
    (SELECT extract(epoch FROM committed_at - oldest_sent)::float8 FROM coatcheck.batch
     ORDER BY committed_at DESC LIMIT 1),
    (SELECT coalesce(jsonb_object_agg(reason, held), '{}')
     FROM (SELECT reason, count(*) AS held FROM coatcheck.quarantine WHERE state = 'held' GROUP BY reason) AS by_reason)
