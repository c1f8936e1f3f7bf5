-- Keep every transaction that masks under this key out until this one ends; wait for those that are in.
SELECT pg_advisory_xact_lock(x'636f6177'::int, hashtext(%(kid)s))
