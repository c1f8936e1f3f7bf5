-- A page of the sealed messages of an open retry.
SELECT quarantine_id, message_key, message_id, origin, reason, sent_ms, received_ms, nonce, ciphertext, dek_id, kek,
       wrapped
FROM coatcheck.retry_fetch(%(request)s, %(after)s, %(limit)s)
