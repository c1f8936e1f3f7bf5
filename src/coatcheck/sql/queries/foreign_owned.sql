-- What in the schema coatcheck does not belong to coatcheck_owner yet, as statements that change it; the schema first.
-- Before that whoever owned it becomes a member of coatcheck_owner: a loader may run as the owner, and must not stop.
WITH owned (kind, oid, owner) AS (
    SELECT 'SCHEMA', oid, nspowner FROM pg_namespace WHERE nspname = 'coatcheck'
    UNION ALL
    SELECT CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, oid, relowner
    FROM pg_class WHERE relnamespace = to_regnamespace('coatcheck') AND relkind IN ('r', 'p', 'v')
    UNION ALL
    SELECT 'FUNCTION', oid, proowner FROM pg_proc WHERE pronamespace = to_regnamespace('coatcheck')
)
SELECT statement
FROM (
    SELECT DISTINCT 0 AS place, r.oid, format('GRANT coatcheck_owner TO %I', rolname) AS statement
    FROM owned JOIN pg_roles AS r ON r.oid = owner
    WHERE NOT rolsuper AND rolname <> 'coatcheck_owner' AND NOT pg_has_role(r.oid, 'coatcheck_owner', 'USAGE')
    UNION ALL
    SELECT CASE kind WHEN 'SCHEMA' THEN 1 WHEN 'FUNCTION' THEN 3 ELSE 2 END, oid,
           format('ALTER %s %s OWNER TO coatcheck_owner', kind,
                  CASE kind WHEN 'SCHEMA' THEN 'coatcheck' WHEN 'FUNCTION' THEN oid::regprocedure::text
                            ELSE oid::regclass::text END)
    FROM owned WHERE pg_get_userbyid(owner) <> 'coatcheck_owner'
) AS statements
ORDER BY place, oid
