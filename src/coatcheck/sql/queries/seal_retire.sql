-- Note that a key wraps no data key any more.
SELECT coatcheck.retire_seal_key(%(kek)s)
