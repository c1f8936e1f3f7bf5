-- The functions of triggers on the target that have no search_path of their own: under ours they find PostgreSQL's names
-- only, unless they qualify the others. C functions have none to find.
SELECT DISTINCT t.tgname::text, p.oid::pg_catalog.regprocedure::text
FROM pg_catalog.pg_trigger AS t
JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
WHERE t.tgrelid = ANY (%(behind)s::oid[]) AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgparentid = 0
  AND l.lanname NOT IN ('internal', 'c')
  AND NOT EXISTS (SELECT FROM pg_catalog.unnest(p.proconfig) AS setting WHERE pg_catalog.starts_with(setting, 'search_path='))
ORDER BY 1, 2
