-- Add a key that wraps data keys; its state.
SELECT coatcheck.add_seal_key(%(kek)s)
