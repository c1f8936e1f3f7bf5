-- What an operator asks first of a pipeline: loads of the last minute, the newest commit, its lag, quarantine by reason.
SELECT
    (SELECT coalesce(sum(loaded), 0) FROM coatcheck.batch
     WHERE pipeline = %(pipeline)s AND committed_at > now() - interval '1 minute')::bigint,
    (SELECT coalesce(sum(duplicates), 0) FROM coatcheck.batch
     WHERE pipeline = %(pipeline)s AND committed_at > now() - interval '1 minute')::bigint,
    (SELECT max(committed_at) FROM coatcheck.batch WHERE pipeline = %(pipeline)s),
    (SELECT extract(epoch FROM committed_at - oldest_sent)::float8 FROM coatcheck.batch
     WHERE pipeline = %(pipeline)s
     ORDER BY committed_at DESC LIMIT 1),
    (SELECT coalesce(jsonb_object_agg(reason, held), '{}')
     FROM (SELECT reason, count(*) AS held FROM coatcheck.quarantine
           WHERE state = 'held' AND pipeline = %(pipeline)s GROUP BY reason) AS by_reason)
