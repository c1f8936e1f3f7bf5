-- The columns of the target: name, type, base type (of a domain; citext by its plain name), the domains that the type
-- goes through, whether the table computes the value (generated, or identity always), whether it can be put in (of a
-- view over one table), whether it refuses NULL, and whether it has a value where none is given.
WITH RECURSIVE types (num, oid, typmod, domains, not_null, filled) AS (
    SELECT attnum, atttypid, atttypmod, ARRAY[]::oid[], false, false
    FROM pg_catalog.pg_attribute
    WHERE attrelid = %(oid)s AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT types.num, t.typbasetype, t.typtypmod, types.domains || t.oid, types.not_null OR t.typnotnull,
           types.filled OR t.typdefault IS NOT NULL
    FROM types JOIN pg_catalog.pg_type AS t ON t.oid = types.oid
    WHERE t.typtype = 'd'
)
SELECT a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod),
       CASE WHEN t.typname = 'citext' AND t.typcategory = 'S' THEN 'citext'
            ELSE pg_catalog.format_type(types.oid, types.typmod) END,
       types.domains,
       bool_or(b.attgenerated <> ''), bool_or(b.attidentity = 'a'),
       CASE WHEN c.relkind = 'v' AND cardinality(%(behind)s::oid[]) > 1 THEN pg_catalog.pg_column_is_updatable(c.oid, a.attnum, true) ELSE true END,
       types.not_null OR bool_or(b.attnotnull),
       -- a partition's own default does not count where rows come in through its parent
       types.filled OR bool_or((b.atthasdef OR b.attidentity <> '') AND (b.attrelid = c.oid OR NOT bc.relispartition))
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid
JOIN types ON types.num = a.attnum
JOIN pg_catalog.pg_type AS t ON t.oid = types.oid AND t.typtype <> 'd'
JOIN pg_catalog.pg_attribute AS b ON b.attname = a.attname AND b.attrelid = ANY (%(behind)s::oid[])
JOIN pg_catalog.pg_class AS bc ON bc.oid = b.attrelid
WHERE c.oid = %(oid)s
GROUP BY c.oid, c.relkind, a.attnum, a.attname, a.atttypid, a.atttypmod, t.typname, t.typcategory, types.oid, types.typmod,
         types.domains, types.not_null, types.filled
ORDER BY a.attnum
