-- Who may create in the target's schema beside its owner and the table's (NULL: everybody). Superusers may anyway, and
-- coatcheck's own roles are seen to by grants.sql.
SELECT r.rolname::text
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) AS acl
LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = acl.grantee
WHERE c.oid = %(oid)s AND acl.privilege_type = 'CREATE' AND acl.grantee NOT IN (n.nspowner, c.relowner)
  AND NOT coalesce(r.rolsuper OR r.rolname IN ('coatcheck_owner', 'coatcheck_rotator', current_user), false)
ORDER BY 1 NULLS FIRST
