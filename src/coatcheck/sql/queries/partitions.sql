-- Whose a table is, how it is partitioned (NULL: it is not), and its partitions with their bounds as PostgreSQL writes them and
-- whether they have REPLICA IDENTITY FULL.
-- Looked up by name, as in table_columns.sql.
SELECT pg_get_userbyid(target.relowner), pg_get_partkeydef(target.oid), n.nspname, c.relname, pg_get_expr(c.relpartbound, c.oid),
       c.relreplident = 'f'
FROM (SELECT t.oid, t.relowner
      FROM pg_class AS t JOIN pg_namespace AS s ON s.oid = t.relnamespace
      WHERE t.relname = %(name)s
        AND CASE WHEN %(schema)s::text IS NULL THEN t.oid = to_regclass(quote_ident(%(name)s))
                 ELSE s.nspname = %(schema)s END) AS target
LEFT JOIN pg_inherits AS i ON i.inhparent = target.oid
LEFT JOIN pg_class AS c ON c.oid = i.inhrelid
LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace
ORDER BY c.relname
