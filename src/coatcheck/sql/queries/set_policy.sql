-- Change what the desk allows.
SELECT coatcheck.set_policy(%(name)s, %(value)s)
