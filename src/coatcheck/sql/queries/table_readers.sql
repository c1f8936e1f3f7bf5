-- Who may read all of a table, beside its owner (NULL: everybody). Looked up by name, as in table_columns.sql.
SELECT (SELECT rolname FROM pg_roles AS r WHERE r.oid = acl.grantee)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace, aclexplode(c.relacl) AS acl
WHERE relname = %(name)s AND acl.privilege_type = 'SELECT' AND acl.grantee <> c.relowner
  AND CASE WHEN %(schema)s::text IS NULL THEN c.oid = to_regclass(quote_ident(%(name)s)) ELSE nspname = %(schema)s END
