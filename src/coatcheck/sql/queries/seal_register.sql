-- Take note of the first key that wraps data keys; the state of this one.
SELECT coatcheck.register_seal_key(%(kek)s)
