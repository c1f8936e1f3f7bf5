-- What may refuse a row: constraints and unique indexes over columns that are filled, and the checks of their domains:
-- name, kind (d: of a domain), columns, the domain, whether it may be tried here, and its expression (the domain's name).
-- Evaluated is only what PostgreSQL ships and what has no effect: an expression of the table's owner runs with the rights
-- of whoever calls `coatcheck check`. Immutable functions of pg_catalog are the only ones that are called.
WITH found AS (
    SELECT con.*, coalesce(pg_catalog.to_jsonb(con) ->> 'conenforced', 'true') = 'true' AS enforced,
           ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
                 WHERE a.attrelid = con.conrelid AND a.attnum = ANY (con.conkey) ORDER BY a.attnum) AS names
    FROM pg_catalog.pg_constraint AS con
    WHERE (con.conrelid = ANY (%(behind)s::oid[]) AND con.contype IN ('c', 'u', 'p', 'x', 'f') AND con.conparentid = 0)
       OR (con.contypid = ANY (%(domains)s::oid[]) AND con.contype = 'c')
)
SELECT DISTINCT con.conname::text, CASE WHEN con.contypid <> 0 THEN 'd' ELSE con.contype::text END, con.names,
       con.contypid, safe.safe,
       CASE WHEN safe.safe AND con.contypid <> 0 THEN pg_catalog.format_type(con.contypid, NULL)
            WHEN safe.safe THEN pg_catalog.pg_get_expr(con.conbin, con.conrelid) END
FROM found AS con, LATERAL (
    SELECT con.contype = 'c'
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                       WHERE d.classid = 'pg_catalog.pg_constraint'::regclass AND d.objid = con.oid
                         AND d.refobjid NOT IN (con.conrelid, con.contypid)
                         AND d.refclassid <> 'pg_catalog.pg_collation'::regclass)
       AND NOT EXISTS (SELECT FROM pg_catalog.regexp_matches(con.conbin::text, ':(?:funcid|opfuncid) ([0-9]+)', 'g') AS m (f)
                       LEFT JOIN pg_catalog.pg_proc AS p ON p.oid = m.f[1]::oid
                       WHERE m.f[1] <> '0' AND (p.provolatile IS DISTINCT FROM 'i'
                                                OR p.pronamespace <> 'pg_catalog'::regnamespace))
) AS safe (safe)
WHERE con.enforced AND (con.contypid <> 0 OR con.names = '{}' OR con.names && %(columns)s::text[])
UNION ALL
SELECT DISTINCT c.relname::text, 'u', ARRAY[]::text[], 0::oid, false, NULL
FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
WHERE i.indrelid = ANY (%(behind)s::oid[]) AND i.indisunique AND NOT c.relispartition
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint AS con WHERE con.conindid = c.oid AND con.contype IN ('p', 'u', 'x'))
  AND (0 = ANY (i.indkey::int2[])
       OR EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                  WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[]) AND a.attname = ANY (%(columns)s::text[])))
ORDER BY 1, 2
