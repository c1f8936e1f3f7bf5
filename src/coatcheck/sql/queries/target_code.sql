-- What may change a row, drop it or put it elsewhere: triggers for each row before (or instead of) an INSERT, and rules.
SELECT 'trigger', t.tgname::text, pg_catalog.format('%%I.%%I', n.nspname, c.relname)
FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE t.tgrelid = ANY (%(behind)s::oid[]) AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
  AND t.tgtype & 5 = 5 AND t.tgtype & 66 <> 0 AND t.tgparentid = 0
UNION ALL
SELECT 'rule', w.rulename::text, pg_catalog.format('%%I.%%I', n.nspname, c.relname)
FROM pg_catalog.pg_rewrite AS w JOIN pg_catalog.pg_class AS c ON c.oid = w.ev_class
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE w.ev_class = ANY (%(behind)s::oid[]) AND w.ev_type = '3' AND w.ev_enabled IN ('O', 'A')
ORDER BY 1, 2, 3
