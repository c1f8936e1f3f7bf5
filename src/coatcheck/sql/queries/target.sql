-- What kind of relation the target is, and what lies behind it; no row: there is none. Without a schema the search_path
-- decides. `behind` are the relations whose constraints rows meet: the target with its partitions, and, of a view that
-- PostgreSQL itself turns into one table, that table with its partitions. `own` are coatcheck's tables that rules or
-- partitions lead to. `hidden` are columns of a view's table that need a value and that the view does not show.
WITH RECURSIVE target AS (
    SELECT c.oid, n.nspname, c.relkind, c.relispartition
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relname = %(name)s
      AND CASE WHEN %(schema)s::text IS NULL THEN c.oid = pg_catalog.to_regclass(pg_catalog.quote_ident(%(name)s))
               ELSE n.nspname = %(schema)s END
), reached (oid) AS (
    SELECT oid FROM target
    UNION
    SELECT next.oid
    FROM reached, LATERAL (
        SELECT relid FROM pg_catalog.pg_partition_tree(reached.oid)
        UNION ALL
        SELECT d.refobjid FROM pg_catalog.pg_rewrite AS w
        JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = w.oid
             AND d.refclassid = 'pg_catalog.pg_class'::regclass
        WHERE w.ev_class = reached.oid
    ) AS next (oid)
), tables (oid) AS (
    SELECT c.oid FROM reached JOIN pg_catalog.pg_class AS c ON c.oid = reached.oid
    WHERE c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition
), simple AS (  -- a view without triggers and rules, over one table
    SELECT target.oid FROM target
    WHERE target.relkind = 'v' AND (SELECT count(*) FROM tables) = 1
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger AS t JOIN reached ON reached.oid = t.tgrelid
                      WHERE t.tgtype & 64 <> 0)
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_rewrite AS w JOIN reached ON reached.oid = w.ev_class
                      WHERE w.ev_type = '3')
)
SELECT target.oid, target.nspname, target.relkind::text, target.relispartition,
       CASE WHEN target.relkind IN ('v', 'f') THEN pg_catalog.pg_relation_is_updatable(target.oid, true) & 8 <> 0
            ELSE target.relkind IN ('r', 'p') END,
       CASE WHEN target.relkind IN ('r', 'p') THEN pg_catalog.row_security_active(target.oid) ELSE false END,
       ARRAY(SELECT oid FROM reached WHERE EXISTS (SELECT FROM simple)
             UNION SELECT target.oid UNION SELECT relid FROM pg_catalog.pg_partition_tree(target.oid)) AS behind,
       ARRAY(SELECT c.relname::text FROM reached JOIN pg_catalog.pg_class AS c ON c.oid = reached.oid
             WHERE c.relnamespace = pg_catalog.to_regnamespace('coatcheck') AND c.oid <> target.oid
             ORDER BY c.relname) AS own,
       ARRAY(SELECT pg_catalog.format('%%I.%%I', c.relname, a.attname)
             FROM simple, tables JOIN pg_catalog.pg_class AS c ON c.oid = tables.oid
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
             WHERE a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND t.typdefault IS NULL
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_rewrite AS w JOIN reached ON reached.oid = w.ev_class
                               JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::regclass
                                    AND d.objid = w.oid AND d.refobjid = c.oid AND d.refobjsubid = a.attnum)
             ORDER BY a.attnum) AS hidden
FROM target
