-- Registered relations with texts under a key whose rows are elsewhere: views, foreign tables, tables with a foreign part;
-- and of each whether it is a view over a table that is registered itself.
WITH RECURSIVE registered (oid) AS (
    SELECT DISTINCT m.relation::oid FROM coatcheck.masked_column AS m WHERE m.scheme <> ''
), reached (first, oid, kind) AS (
    SELECT c.oid, c.oid, c.relkind FROM registered JOIN pg_class AS c USING (oid)
    UNION
    SELECT reached.first, c.oid, c.relkind
    FROM reached
    CROSS JOIN LATERAL (
        SELECT i.inhrelid FROM pg_inherits AS i WHERE i.inhparent = reached.oid
        UNION ALL
        SELECT d.refobjid FROM pg_rewrite AS w
        JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
        WHERE w.ev_class = reached.oid AND reached.kind = 'v'
    ) AS next (oid)
    JOIN pg_class AS c ON c.oid = next.oid
)
SELECT n.nspname, c.relname,
       c.relkind = 'v' AND EXISTS (SELECT FROM reached JOIN registered USING (oid)
                                   WHERE reached.first = c.oid AND reached.kind IN ('r', 'p'))
FROM registered JOIN pg_class AS c USING (oid) JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'v' OR EXISTS (SELECT FROM reached WHERE reached.first = c.oid AND reached.kind = 'f')
ORDER BY 1, 2
