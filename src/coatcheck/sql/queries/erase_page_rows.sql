-- Put tombstones into the rows of a page. Runs under the login's search_path, for triggers: all is qualified.
UPDATE {target} AS t
SET {assignments}
FROM unnest(%(tables)s::pg_catalog.int8[], %(places)s::pg_catalog.text[]) AS page (relation, place)
WHERE t.tableoid OPERATOR(pg_catalog.=) page.relation::pg_catalog.oid
  AND t.ctid OPERATOR(pg_catalog.=) page.place::pg_catalog.tid
