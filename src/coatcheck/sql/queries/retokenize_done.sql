-- Vault entries of one domain under the key that retires, in order, behind those that were taken already; only those
-- that have an entry of the same epoch under the active key. [first, beyond) is the range of the old tokens.
SELECT v.token, v.epoch, v.nonce, v.ciphertext, k.dek_id, k.kek, k.wrapped
FROM coatcheck.vault AS v JOIN coatcheck.data_key AS k USING (dek_id)
WHERE v.token >= %(first)s AND v.token < %(beyond)s AND (v.token, v.epoch) > (%(token)s, %(epoch)s)
  AND EXISTS (SELECT FROM coatcheck.alias AS a JOIN coatcheck.vault AS n ON n.token = a.new_token
              WHERE a.old_token = v.token AND n.epoch = v.epoch)
ORDER BY v.token, v.epoch
LIMIT %(limit)s
