-- Registered relations with texts under a key whose rows are elsewhere: views and foreign tables.
SELECT DISTINCT format('%I.%I', n.nspname, c.relname)
FROM coatcheck.masked_column AS m
JOIN pg_class AS c ON c.oid = m.relation
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE m.scheme <> '' AND c.relkind IN ('v', 'f')
ORDER BY 1
