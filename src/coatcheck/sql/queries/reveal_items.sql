-- What a request is for.
SELECT coatcheck.reveal_items(%(request)s)
