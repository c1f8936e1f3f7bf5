-- Take note of the key that wraps data keys; its state here.
SELECT coatcheck.register_seal_key(%(kek)s)
