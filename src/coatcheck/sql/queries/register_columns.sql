-- The masked columns of this database that exist, in the order of their tables: the column of the registered name, and the
-- one that had it when it was registered.
SELECT m.pipeline, n.nspname, c.relname, a.attname, m.domain, m.mask, m.type, m.path, m.parse, m.casefold,
       m.strip_chars, m.vault, m.left_at IS NULL
FROM coatcheck.masked_column AS m
JOIN pg_class AS c ON c.oid = m.relation
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a
     ON a.attrelid = c.oid AND NOT a.attisdropped
     AND (a.attname = m.column_name
          OR (a.attnum = m.attnum AND a.atttypid IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype)))
ORDER BY n.nspname, c.relname, a.attnum, m.left_at NULLS FIRST, m.pipeline
