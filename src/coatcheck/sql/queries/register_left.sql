-- Marks the columns that a pipeline does not configure any more; returns them with each column that may have their texts
-- (NULL: it is gone, or its table is) and whether they were left so lately that a loader may still fill them.
WITH configured (column_name, scheme, domain) AS (
    SELECT * FROM unnest(%(columns)s::text[], %(schemes)s::text[], %(domains)s::text[])
), gone AS (
    UPDATE coatcheck.masked_column AS m SET left_at = coalesce(m.left_at, now())
    WHERE m.pipeline = %(pipeline)s
      AND NOT (m.relation IN (SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                              WHERE n.nspname = %(schema)s AND c.relname = %(table)s)
               AND (m.column_name, m.scheme, m.domain) IN (SELECT * FROM configured))
    RETURNING m.*
)
SELECT m.relation::oid, m.column_name, m.scheme, m.domain, n.nspname, c.relname, a.attname,
       m.left_at > now() - interval '30 days'
FROM gone AS m
LEFT JOIN pg_class AS c ON c.oid = m.relation
LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute AS a
     ON a.attrelid = c.oid AND NOT a.attisdropped
     AND (a.attname = m.column_name
          OR (a.attnum = m.attnum AND a.atttypid IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype)))
