-- The tables that hold the target's rows, with their size in blocks: itself, and its partitions or children.
WITH RECURSIVE part (oid) AS (
    SELECT to_regclass(%(target)s)::oid
    UNION
    SELECT i.inhrelid FROM part JOIN pg_inherits AS i ON i.inhparent = part.oid
)
SELECT c.oid::regclass::text, n.nspname, c.relname, pg_relation_size(c.oid) / current_setting('block_size')::int8
FROM part JOIN pg_class AS c USING (oid) JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r'
ORDER BY c.oid
