-- Whether the vault has entries of one domain under the key that retires without one under the active key.
SELECT count(*)
FROM coatcheck.vault AS v
WHERE v.token >= %(first)s AND v.token < %(beyond)s
  AND NOT EXISTS (SELECT FROM coatcheck.alias AS a JOIN coatcheck.vault AS n ON n.token = a.new_token
                  WHERE a.old_token = v.token AND n.epoch = v.epoch)
