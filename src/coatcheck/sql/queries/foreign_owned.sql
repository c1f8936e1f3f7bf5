-- What in the schema coatcheck does not belong to coatcheck_owner yet, as statements that change it; the schema first.
SELECT statement
FROM (
    SELECT 0 AS place, 0::oid AS oid, 'ALTER SCHEMA coatcheck OWNER TO coatcheck_owner' AS statement
    FROM pg_namespace WHERE nspname = 'coatcheck' AND pg_get_userbyid(nspowner) <> 'coatcheck_owner'
    UNION ALL
    SELECT 1, c.oid, format('ALTER %s %s OWNER TO coatcheck_owner', CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END,
                            c.oid::regclass)
    FROM pg_class AS c
    WHERE c.relnamespace = to_regnamespace('coatcheck') AND c.relkind IN ('r', 'p', 'v')
      AND pg_get_userbyid(c.relowner) <> 'coatcheck_owner'
    UNION ALL
    SELECT 2, p.oid, format('ALTER FUNCTION %s OWNER TO coatcheck_owner', p.oid::regprocedure)
    FROM pg_proc AS p
    WHERE p.pronamespace = to_regnamespace('coatcheck') AND pg_get_userbyid(p.proowner) <> 'coatcheck_owner'
) AS foreign_owned
ORDER BY place, oid
