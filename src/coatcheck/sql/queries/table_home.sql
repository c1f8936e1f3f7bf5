-- The schema of a table that is named without one, as the search_path has it; if there is no such table, the schema that it
-- would be made in. Nothing else here depends on the search_path.
SELECT coalesce((SELECT n.nspname FROM pg_catalog.pg_class AS c
                 JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
                 WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(pg_catalog.quote_ident(%(name)s::pg_catalog.text))),
                pg_catalog.current_schema())
