-- Give held messages up: their bodies go, the entries stay as a record of who did it and when.
SELECT coatcheck.quarantine_discard(%(ids)s::bigint[], %(reason)s, %(pipeline)s)
