-- What the database knows of these token keys.
SELECT kid, fingerprint, state = 'retired' FROM coatcheck.token_key WHERE kid = ANY (%(kids)s::text[])
