-- Forget a column that holds no text made under a key.
DELETE FROM coatcheck.masked_column AS m
WHERE m.pipeline = %(pipeline)s AND NOT m.configured
  AND (m.table_schema, m.table_name, m.column_name, m.scheme, m.domain)
      = (%(schema)s, %(table)s, %(column)s, %(scheme)s, %(domain)s)
