-- Forget a column that holds no text made under a key.
DELETE FROM coatcheck.masked_column AS m
WHERE m.pipeline = %(pipeline)s AND m.left_at IS NOT NULL
  AND (m.relation::oid, m.column_name, m.scheme, m.domain) = (%(relation)s::oid, %(column)s, %(scheme)s, %(domain)s)
