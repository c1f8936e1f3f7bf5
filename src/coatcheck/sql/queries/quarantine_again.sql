-- A held message that was tried again and rejected again.
SELECT coatcheck.retry_rejected(%(request)s, %(quarantine_id)s, %(reason)s, %(detail)s)
