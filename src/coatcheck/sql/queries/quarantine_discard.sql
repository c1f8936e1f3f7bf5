-- Give held messages up: the sealed bodies go, the entries stay as a record of who did it and when.
UPDATE coatcheck.quarantine
SET state = 'discarded', ciphertext = NULL, nonce = NULL, resolved_at = now(), resolved_by = session_user
WHERE state = 'held'
  AND (%(reason)s::text IS NULL OR reason = %(reason)s)
  AND (%(ids)s::bigint[] IS NULL OR quarantine_id = ANY (%(ids)s::bigint[]))
