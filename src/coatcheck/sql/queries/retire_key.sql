-- The last step: the key is retired, also one that no loader has registered here. Taken under the exclusive lock of
-- coatcheck.using_key.
INSERT INTO coatcheck.token_key (kid, state) VALUES (%(kid)s, 'retired')
ON CONFLICT (kid) DO UPDATE SET state = 'retired', changed_at = now()
