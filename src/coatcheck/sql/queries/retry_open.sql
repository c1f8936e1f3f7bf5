-- Put the opening of held messages for another try on the trail.
SELECT request_id FROM coatcheck.retry_open(%(ids)s::bigint[], %(reason)s, %(pipeline)s)
