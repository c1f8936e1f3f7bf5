-- Erase what the vault and the requests have of texts; in the transaction that erases them from the rows.
SELECT entries, aliases, named FROM coatcheck.erase_tokens(%(erasure)s::bigint, %(texts)s::text[])
