-- Whether this database knows a token key, and whether it is retired.
SELECT state = 'retired' FROM coatcheck.token_key WHERE kid = %(kid)s
