-- The policies of row-level security that decide on rows which this user puts into the target: name, whether it is a
-- permissive one, and whether it lets no row pass whatsoever.
SELECT polname::text, polpermissive,
       coalesce(pg_catalog.pg_get_expr(polwithcheck, polrelid), pg_catalog.pg_get_expr(polqual, polrelid)) = 'false'
FROM pg_catalog.pg_policy
WHERE polrelid = %(oid)s AND polcmd IN ('a', '*')
  AND EXISTS (SELECT FROM unnest(polroles) AS role WHERE role = 0 OR pg_catalog.pg_has_role(role, 'USAGE'))
ORDER BY 1
