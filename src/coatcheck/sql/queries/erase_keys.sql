-- The token keys that texts in this database may be under, with their fingerprints.
SELECT kid, fingerprint FROM coatcheck.token_key WHERE state = 'in use'
