-- Remove a page of the retired key's vault entries; each has one under the active key.
DELETE FROM coatcheck.vault
WHERE (token, epoch) IN (SELECT token, epoch FROM coatcheck.vault WHERE token >= %(first)s AND token < %(beyond)s
                         ORDER BY token, epoch LIMIT %(limit)s)
