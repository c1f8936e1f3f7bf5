-- A held message that was tried again and rejected again.
UPDATE coatcheck.quarantine
SET attempts = attempts + 1, reason = %(reason)s, detail = %(detail)s
WHERE quarantine_id = %(quarantine_id)s AND state = 'held'
