-- Whether a token key retires: two are in use.
SELECT count(*) > 1 FROM coatcheck.token_key WHERE state <> 'retired'
