-- What an erasure does and this user may not: (what, to be granted) of everything that is missing, at once. Looked up by
-- name, as in privileges.sql. The role coatcheck_eraser has it all (grants.sql).
WITH target AS (
    SELECT c.oid, format('%%I.%%I', nspname, relname) AS name, n.oid AS schema
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
    WHERE relname = %(name)s
      AND CASE WHEN %(schema)s::text IS NULL THEN c.oid = to_regclass(quote_ident(%(name)s)) ELSE nspname = %(schema)s END
)
SELECT 'USAGE ON SCHEMA ' || quote_ident(nspname)
FROM pg_namespace AS n
WHERE (nspname = 'coatcheck' OR oid IN (SELECT schema FROM target)) AND NOT has_schema_privilege(oid, 'USAGE')
UNION ALL
SELECT 'SELECT ON ' || name FROM target WHERE NOT has_table_privilege(oid, 'SELECT')
UNION ALL
SELECT format('UPDATE (%%s) ON %%s', string_agg(quote_ident(attname), ', ' ORDER BY attnum), name)
FROM target JOIN pg_attribute ON attrelid = oid AND attname = ANY (%(masked)s::text[]) AND NOT attisdropped
WHERE NOT has_column_privilege(oid, attnum, 'UPDATE')
GROUP BY name
UNION ALL
SELECT 'SELECT ON coatcheck.' || relname
FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace AND nspname = 'coatcheck'
WHERE relname IN ('alias', 'form', 'token_key') AND NOT has_table_privilege(pg_class.oid, 'SELECT')
UNION ALL
SELECT 'SELECT (state) ON coatcheck.quarantine'
FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace AND nspname = 'coatcheck'
WHERE relname = 'quarantine' AND NOT has_column_privilege(pg_class.oid, 'state', 'SELECT')
UNION ALL
SELECT 'EXECUTE ON FUNCTION ' || format('coatcheck.%%I(%%s)', proname, pg_get_function_identity_arguments(p.oid))
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = pronamespace AND nspname = 'coatcheck'
WHERE proname IN ('erase_begin', 'erase_tokens', 'erase_end', 'erase_epoch') AND NOT has_function_privilege(p.oid, 'EXECUTE')
