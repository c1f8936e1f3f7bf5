-- Put tombstones into the rows of a page.
UPDATE {target} AS t
SET {assignments}
FROM unnest(%(tables)s::bigint[], %(places)s::text[]) AS page (relation, place)
WHERE t.tableoid = page.relation::oid AND t.ctid = page.place::tid
