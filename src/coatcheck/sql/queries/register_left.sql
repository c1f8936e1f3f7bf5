-- Columns that a pipeline does not configure any more; NULL as their number: they or their table are gone.
WITH configured (table_schema, table_name, column_name, scheme, domain) AS (
    SELECT * FROM unnest(%(schemas)s::text[], %(tables)s::text[], %(columns)s::text[], %(schemes)s::text[], %(domains)s::text[])
)
UPDATE coatcheck.masked_column AS m SET configured = false
WHERE m.pipeline = %(pipeline)s
  AND (m.table_schema, m.table_name, m.column_name, m.scheme, m.domain) NOT IN (SELECT * FROM configured)
RETURNING m.table_schema, m.table_name, m.column_name, m.scheme, m.domain,
          (SELECT a.attnum
           FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
           WHERE n.nspname = m.table_schema AND c.relname = m.table_name AND a.attname = m.column_name
             AND NOT a.attisdropped)
