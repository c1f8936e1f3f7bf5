-- Held messages, oldest first: what an operator may see without opening anything.
SELECT quarantine_id, pipeline, message_id, reason, detail, sent_at, received_at, quarantined_at, attempts, state
FROM coatcheck.quarantine
WHERE (%(all)s OR state = 'held')
  AND pipeline = %(pipeline)s
  AND (%(reason)s::text IS NULL OR reason = %(reason)s)
  AND (%(ids)s::bigint[] IS NULL OR quarantine_id = ANY (%(ids)s::bigint[]))
ORDER BY quarantine_id
LIMIT %(limit)s
