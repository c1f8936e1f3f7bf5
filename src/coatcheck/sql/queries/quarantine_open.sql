-- The sealed bodies of held messages with the wrapped data keys to open them, oldest first.
SELECT q.quarantine_id, q.message_key, q.message_id, q.origin, q.reason,
       (extract(epoch FROM q.sent_at) * 1000)::bigint, (extract(epoch FROM q.received_at) * 1000)::bigint,
       q.nonce, q.ciphertext, k.dek_id, k.kek, k.wrapped
FROM coatcheck.quarantine AS q JOIN coatcheck.data_key AS k USING (dek_id)
WHERE q.state = 'held'
  AND (%(reason)s::text IS NULL OR q.reason = %(reason)s)
  AND (%(ids)s::bigint[] IS NULL OR q.quarantine_id = ANY (%(ids)s::bigint[]))
  AND q.quarantine_id > %(after)s
ORDER BY q.quarantine_id
LIMIT %(limit)s
