-- The token keys that this database knows.
SELECT kid, fingerprint, state = 'retired' FROM coatcheck.token_key ORDER BY changed_at, kid
