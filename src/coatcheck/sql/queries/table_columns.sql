-- The columns of a table as PostgreSQL writes their types; no row for a table that does not exist. Looked up by name,
-- as in privileges.sql; without a schema the search_path decides.
SELECT attname, format_type(atttypid, atttypmod), attnotnull AND NOT atthasdef AND attidentity = '' AND attgenerated = ''
FROM pg_attribute
WHERE attnum > 0 AND NOT attisdropped
  AND attrelid = (SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
                  WHERE relname = %(name)s
                    AND CASE WHEN %(schema)s::text IS NULL THEN c.oid = to_regclass(quote_ident(%(name)s))
                             ELSE nspname = %(schema)s END)
ORDER BY attnum
