-- Columns that a pipeline does not configure any more, and whether that is new; NULL as their number: they or their table
-- are gone.
WITH configured (table_schema, table_name, column_name, scheme, domain) AS (
    SELECT * FROM unnest(%(schemas)s::text[], %(tables)s::text[], %(columns)s::text[], %(schemes)s::text[], %(domains)s::text[])
)
UPDATE coatcheck.masked_column AS m SET configured = false
FROM coatcheck.masked_column AS before
WHERE m.pipeline = %(pipeline)s
  AND (before.pipeline, before.table_schema, before.table_name, before.column_name, before.scheme, before.domain)
      = (m.pipeline, m.table_schema, m.table_name, m.column_name, m.scheme, m.domain)
  AND (m.table_schema, m.table_name, m.column_name, m.scheme, m.domain) NOT IN (SELECT * FROM configured)
RETURNING m.table_schema, m.table_name, m.column_name, m.scheme, m.domain, before.configured,
          (SELECT a.attnum
           FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
           WHERE n.nspname = m.table_schema AND c.relname = m.table_name AND a.attname = m.column_name
             AND NOT a.attisdropped)
