-- The schema in which the search_path finds a table, or in which it would be made if there is none of that name. Nothing else
-- here depends on the search_path.
SELECT coalesce((SELECT n.nspname FROM pg_catalog.pg_class AS c
                 JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
                 WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(pg_catalog.quote_ident(%(name)s::pg_catalog.text))),
                pg_catalog.current_schema())
