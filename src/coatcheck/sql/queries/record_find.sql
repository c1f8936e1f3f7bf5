-- Put the look-up of a token on the trail.
SELECT coatcheck.record_find(%(domain)s, %(reason)s, %(ticket)s)
