-- The masked columns of this database that exist, in the order of their tables.
SELECT m.pipeline, m.table_schema, m.table_name, m.column_name, m.domain, m.mask, m.type, m.path, m.parse, m.casefold,
       m.strip_chars, m.vault, m.configured
FROM coatcheck.masked_column AS m
JOIN pg_namespace AS n ON n.nspname = m.table_schema
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = m.table_name
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = m.column_name AND NOT a.attisdropped
ORDER BY m.table_schema, m.table_name, a.attnum, m.configured DESC, m.pipeline
