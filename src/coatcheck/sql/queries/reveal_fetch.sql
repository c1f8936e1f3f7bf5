-- Have what an open request is for, sealed.
SELECT item, epoch, form_id, message_key, nonce, ciphertext, dek_id, kek, wrapped
FROM coatcheck.reveal_fetch(%(request)s)
