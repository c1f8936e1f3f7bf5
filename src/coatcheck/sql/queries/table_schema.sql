-- The schema of a table. Looked up by name, as in table_columns.sql.
SELECT nspname
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
WHERE relname = %(name)s
  AND CASE WHEN %(schema)s::text IS NULL THEN c.oid = to_regclass(quote_ident(%(name)s)) ELSE nspname = %(schema)s END
