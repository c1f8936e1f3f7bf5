-- End an erasure on the audit trail.
SELECT coatcheck.erase_end(%(erasure_id)s::bigint, %(figures)s::jsonb)
