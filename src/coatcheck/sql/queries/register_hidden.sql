-- The tables of which row-level security may hide rows from this login.
SELECT format('%%I.%%I', n.nspname, c.relname)
FROM unnest(%(schemas)s::text[], %(tables)s::text[]) AS r (table_schema, table_name)
JOIN pg_namespace AS n ON n.nspname = r.table_schema
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = r.table_name
WHERE row_security_active(c.oid)
ORDER BY 1
