-- Whether the relation of a name is a view of ours: it reads the aliases. Looked up by name, as in table_schema.sql.
SELECT c.relkind = 'v' AND EXISTS (
    SELECT FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid
    WHERE d.classid = 'pg_rewrite'::regclass AND r.ev_class = c.oid AND d.refobjid = 'coatcheck.alias'::regclass)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE relname = %(name)s
  AND CASE WHEN %(schema)s::text IS NULL THEN c.oid = to_regclass(quote_ident(%(name)s)) ELSE nspname = %(schema)s END
