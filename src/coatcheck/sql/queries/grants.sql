-- The privileges of coatcheck's roles: one row for each that is missing, with the statement that grants it, and for each
-- that a role (or everybody) has in the schema coatcheck and should not have, with the statement that takes it away.
-- This is the catalogue: `coatcheck migrate` grants by it, `coatcheck check` checks by it.
WITH object_grants (role, verb, name) AS (
    SELECT role, verb, name
    FROM (VALUES
        ('loader', '{INSERT}', '{ledger,data_key,quarantine,batch,vault,alias,token_key,form}'),
        ('loader', '{SELECT}', '{ledger,token_key,form,erased}'),
        ('loader', '{EXECUTE}', '{using_key,make_epochs,prune}'),
        ('operator', '{SELECT}', '{batch}'),
        ('operator', '{EXECUTE}', '{retry_open,retry_fetch,quarantine_discard}'),
        ('revealer', '{EXECUTE}', '{reveal_request,reveal_open,reveal_fetch,reveal_shown,reveal_deny,reveal_list,reveal_items,record_find}'),
        ('revealer', '{SELECT}', '{policy,form}'),
        ('approver', '{SELECT}', '{policy}'),
        ('approver', '{EXECUTE}', '{reveal_approve,reveal_deny,reveal_list,reveal_items}'),
        ('auditor', '{SELECT}', '{audit,policy,reveal_request,reveal_item,reveal_approval,reveal_opening}'),
        ('auditor', '{EXECUTE}', '{reveal_list,reveal_items,audit_hash,framed}'),
        ('eraser', '{SELECT}', '{alias}'),
        ('eraser', '{EXECUTE}', '{erase_begin,erase_tokens,erase_end,erase_epoch}'),
        ('rotator', '{SELECT,INSERT,DELETE}', '{vault,alias}'),
        ('rotator', '{SELECT,INSERT}', '{data_key,token_key,form}'),
        ('rotator', '{EXECUTE}', '{key_event,using_key}')
    ) AS catalogue (role, verbs, names),
    unnest(verbs::text[]) AS verb, unnest(names::text[]) AS name
    UNION ALL
    SELECT role, 'SELECT', 'migration'
    FROM unnest('{loader,operator,revealer,approver,auditor,eraser,rotator}'::text[]) AS role
), column_grants (role, verb, schema, name, field) AS (
    SELECT role, verb, 'coatcheck', name, field
    FROM (VALUES
        ('operator', 'SELECT', 'quarantine', '{quarantine_id,message_key,message_id,origin,reason,detail,sent_at,received_at,quarantined_at,state,attempts,resolved_at,resolved_by}'),
        ('operator', 'UPDATE', 'quarantine', '{reason,detail,state,attempts,resolved_at,resolved_by}'),
        ('eraser', 'SELECT', 'quarantine', '{quarantine_id,state}'),
        ('rotator', 'UPDATE', 'data_key', '{kek,wrapped}'),
        ('rotator', 'UPDATE', 'token_key', '{state,changed_at}')
    ) AS catalogue (role, verb, name, fields), unnest(fields::text[]) AS field
    UNION ALL
    SELECT role, 'UPDATE', %(schema)s, %(table)s, field
    FROM unnest('{eraser,rotator}'::text[]) AS role, unnest(%(masked)s::text[]) AS field
), relations (role, verb, schema, name) AS (
    SELECT role, verb, 'coatcheck', name FROM object_grants WHERE verb <> 'EXECUTE'
    UNION ALL
    SELECT role, verb, %(schema)s, %(table)s
    FROM (VALUES ('loader', 'INSERT'), ('analyst', 'SELECT'), ('eraser', 'SELECT'), ('rotator', 'SELECT')) AS t (role, verb)
    UNION ALL
    SELECT 'analyst', 'SELECT', %(schema)s, %(view)s
), schemas (role, verb, name) AS (
    SELECT role, 'USAGE', 'coatcheck'
    FROM unnest('{loader,operator,revealer,approver,auditor,eraser,rotator}'::text[]) AS role
    UNION ALL
    SELECT role, 'USAGE', %(schema)s FROM unnest('{loader,analyst,eraser,rotator}'::text[]) AS role
    UNION ALL
    SELECT 'rotator', 'CREATE', %(schema)s  -- the view of a rotation
), roles (role, oid) AS (
    SELECT substr(rolname, 11), oid FROM pg_roles WHERE starts_with(rolname, 'coatcheck_')
)
SELECT 'missing', format('%%s ON SCHEMA %%I', verb, n.nspname), format('GRANT %%s ON SCHEMA %%I TO coatcheck_%%s', verb, n.nspname, role)
FROM schemas JOIN roles USING (role) JOIN pg_namespace AS n ON n.nspname = name
WHERE NOT has_schema_privilege(roles.oid, n.oid, verb)
UNION ALL
SELECT 'missing', format('%%s ON %%I.%%I', verb, schema, name), format('GRANT %%s ON %%I.%%I TO coatcheck_%%s', verb, schema, name, role)
FROM relations JOIN roles USING (role) JOIN pg_namespace AS n ON n.nspname = schema
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = name
WHERE NOT has_table_privilege(roles.oid, c.oid, verb)
UNION ALL
SELECT 'missing', format('%%s (%%s) ON %%I.%%I', verb, string_agg(quote_ident(field), ', ' ORDER BY field), schema, name),
       format('GRANT %%s (%%s) ON %%I.%%I TO coatcheck_%%s', verb, string_agg(quote_ident(field), ', ' ORDER BY field), schema, name, role)
FROM column_grants JOIN roles USING (role) JOIN pg_namespace AS n ON n.nspname = schema
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = name
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = field AND NOT a.attisdropped
WHERE NOT has_column_privilege(roles.oid, c.oid, a.attnum, verb)
GROUP BY verb, schema, name, role
UNION ALL
SELECT 'missing', format('EXECUTE ON FUNCTION %%s', p.oid::regprocedure),
       format('GRANT EXECUTE ON FUNCTION %%s TO coatcheck_%%s', p.oid::regprocedure, role)
FROM object_grants JOIN roles USING (role)
JOIN pg_proc AS p ON p.pronamespace = to_regnamespace('coatcheck') AND p.proname = name
WHERE verb = 'EXECUTE' AND NOT has_function_privilege(roles.oid, p.oid, 'EXECUTE')
UNION ALL
SELECT 'missing', 'membership in coatcheck_loader', 'GRANT coatcheck_loader TO coatcheck_operator'
FROM roles AS operator JOIN roles AS loader ON loader.role = 'loader'
WHERE operator.role = 'operator' AND NOT pg_has_role(operator.oid, loader.oid, 'USAGE')
UNION ALL
SELECT 'excess', format('%%s ON %%I.%%I to %%s', acl.privilege_type, n.nspname, c.relname, coalesce(roles.role, 'everybody')),
       format('REVOKE %%s ON %%I.%%I FROM %%s', acl.privilege_type, n.nspname, c.relname, coalesce('coatcheck_' || roles.role, 'PUBLIC'))
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace, aclexplode(c.relacl) AS acl LEFT JOIN roles ON roles.oid = acl.grantee
WHERE n.nspname = 'coatcheck' AND (acl.grantee = 0 OR roles.role <> 'owner') AND acl.grantee <> c.relowner
  AND NOT EXISTS (SELECT FROM relations AS r WHERE r.role = roles.role AND r.verb = acl.privilege_type AND r.schema = n.nspname AND r.name = c.relname)
UNION ALL
SELECT 'excess', format('EXECUTE ON FUNCTION %%s to %%s', p.oid::regprocedure, coalesce(roles.role, 'everybody')),
       format('REVOKE EXECUTE ON FUNCTION %%s FROM %%s', p.oid::regprocedure, coalesce('coatcheck_' || roles.role, 'PUBLIC'))
FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS acl LEFT JOIN roles ON roles.oid = acl.grantee
WHERE p.pronamespace = to_regnamespace('coatcheck') AND (acl.grantee = 0 OR roles.role <> 'owner') AND acl.grantee <> p.proowner
  AND NOT EXISTS (SELECT FROM object_grants AS g WHERE g.role = roles.role AND g.verb = 'EXECUTE' AND g.name = p.proname)
UNION ALL
SELECT 'excess', format('%%s (%%I) ON %%I.%%I to %%s', acl.privilege_type, a.attname, n.nspname, c.relname, coalesce(roles.role, 'everybody')),
       format('REVOKE %%s (%%I) ON %%I.%%I FROM %%s', acl.privilege_type, a.attname, n.nspname, c.relname, coalesce('coatcheck_' || roles.role, 'PUBLIC'))
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace,
     aclexplode(a.attacl) AS acl LEFT JOIN roles ON roles.oid = acl.grantee
WHERE n.nspname = 'coatcheck' AND (acl.grantee = 0 OR roles.role <> 'owner') AND acl.grantee <> c.relowner
  AND NOT EXISTS (SELECT FROM column_grants AS g WHERE g.role = roles.role AND g.verb = acl.privilege_type AND g.schema = n.nspname AND g.name = c.relname AND g.field = a.attname)
ORDER BY 1, 3
