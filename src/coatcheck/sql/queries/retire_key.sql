-- The last step: the key is retired. Taken under the exclusive lock of coatcheck.using_key.
UPDATE coatcheck.token_key SET state = 'retired', changed_at = now() WHERE kid = %(kid)s
