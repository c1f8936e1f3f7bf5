-- The privileges of coatcheck's roles: one row for each that is missing, with the statement that grants it, and for each
-- that a role (or everybody) has in the schema coatcheck and should not have, with the statement that takes it away.
-- This is the catalogue: `coatcheck migrate` grants by it, `coatcheck check` checks by it. Who gives partitions of the
-- target table new tokens works on each by itself, so that its privileges are needed on each.
WITH target (oid, schema) AS (
    SELECT c.oid, n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = %(table)s
), parts (schema, name) AS (
    SELECT n.nspname, c.relname
    FROM target, LATERAL (SELECT target.oid UNION SELECT relid FROM pg_partition_tree(target.oid)) AS part (oid)
    JOIN pg_class AS c ON c.oid = part.oid JOIN pg_namespace AS n ON n.oid = c.relnamespace
), object_grants (role, verb, name) AS (
    SELECT role, verb, name
    FROM (VALUES
        ('loader', '{INSERT}', '{ledger,data_key,quarantine,batch,vault,alias}'),
        ('loader', '{SELECT}', '{ledger,token_key,form,erased}'),
        ('loader', '{EXECUTE}', '{using_key,make_epochs,prune,register_keys,register_seal_key,figures}'),
        ('operator', '{SELECT}', '{batch}'),
        ('operator', '{EXECUTE}', '{retry_open,reveal_settle,retry_fetch,retry_loaded,retry_rejected,quarantine_discard}'),
        ('revealer', '{EXECUTE}', '{reveal_request,reveal_open,reveal_settle,reveal_fetch,reveal_shown,reveal_deny,reveal_list,reveal_items,record_find}'),
        ('revealer', '{SELECT}', '{policy,form,token_key}'),
        ('approver', '{SELECT}', '{policy}'),
        ('approver', '{EXECUTE}', '{reveal_approve,reveal_deny,reveal_list,reveal_items}'),
        ('auditor', '{SELECT}', '{audit,policy,reveal_request,reveal_item,reveal_approval,reveal_opening}'),
        ('auditor', '{EXECUTE}', '{reveal_list,reveal_items,audit_hash,framed}'),
        ('eraser', '{SELECT}', '{alias,form,token_key,policy}'),
        ('eraser', '{EXECUTE}', '{erase_begin,erase_tokens,erase_end,erase_epoch}'),
        ('rotator', '{SELECT,INSERT,DELETE}', '{vault,alias}'),
        ('rotator', '{SELECT,INSERT}', '{data_key}'),
        ('rotator', '{SELECT}', '{token_key,form}'),
        ('rotator', '{EXECUTE}', '{key_event,using_key,register_keys,register_seal_key,add_seal_key,retire_seal_key}')
    ) AS catalogue (role, verbs, names),
    unnest(verbs::text[]) AS verb, unnest(names::text[]) AS name
    UNION ALL
    SELECT role, 'SELECT', name
    FROM unnest('{loader,operator,revealer,approver,auditor,eraser,rotator}'::text[]) AS role,
         unnest('{migration,database,pipeline,masked_column,seal_key}'::text[]) AS name
), column_grants (role, verb, schema, name, field) AS (
    SELECT role, verb, 'coatcheck', name, field
    FROM (VALUES
        ('operator', 'SELECT', 'quarantine', '{quarantine_id,pipeline,message_key,message_id,origin,reason,detail,sent_at,received_at,quarantined_at,state,attempts,resolved_at,resolved_by}'),
        ('eraser', 'SELECT', 'quarantine', '{quarantine_id,state}'),
        ('rotator', 'UPDATE', 'data_key', '{kek,wrapped}'),
        ('rotator', 'UPDATE', 'token_key', '{state,changed_at}')
    ) AS catalogue (role, verb, name, fields), unnest(fields::text[]) AS field
    UNION ALL
    SELECT role, 'UPDATE', parts.schema, parts.name, field
    FROM unnest('{eraser,rotator}'::text[]) AS role, parts, unnest(%(masked)s::text[]) AS field
), relations (role, verb, schema, name) AS (
    SELECT role, verb, 'coatcheck', name FROM object_grants WHERE verb <> 'EXECUTE'
    UNION ALL
    SELECT role, verb, %(schema)s, %(table)s
    FROM (VALUES ('loader', 'INSERT'), ('analyst', 'SELECT')) AS t (role, verb)
    UNION ALL
    SELECT role, 'SELECT', parts.schema, parts.name FROM unnest('{eraser,rotator}'::text[]) AS role, parts
    UNION ALL
    SELECT 'analyst', 'SELECT', %(schema)s, %(view)s
), schemas (role, verb, name) AS (
    SELECT role, 'USAGE', 'coatcheck'
    FROM unnest('{loader,operator,revealer,approver,auditor,eraser,rotator}'::text[]) AS role
    UNION ALL
    SELECT role, 'USAGE', %(schema)s FROM unnest('{loader,analyst,eraser,rotator}'::text[]) AS role
    UNION
    SELECT role, 'USAGE', parts.schema FROM unnest('{eraser,rotator}'::text[]) AS role, parts
    UNION ALL
    SELECT 'rotator', 'CREATE', %(schema)s  -- the view of a rotation
), roles (role, oid) AS (
    SELECT role, to_regrole('coatcheck_' || role)::oid
    FROM unnest('{owner,loader,operator,analyst,revealer,approver,auditor,eraser,rotator}'::text[]) AS role
    WHERE to_regrole('coatcheck_' || role) IS NOT NULL
)
SELECT 'missing', 'coatcheck_' || role, format('%%s ON SCHEMA %%I', verb, n.nspname), format('GRANT %%s ON SCHEMA %%I TO coatcheck_%%s', verb, n.nspname, role)
FROM schemas JOIN roles USING (role) JOIN pg_namespace AS n ON n.nspname = name
WHERE NOT has_schema_privilege(roles.oid, n.oid, verb)
UNION ALL
SELECT 'missing', 'coatcheck_' || role, format('%%s ON %%I.%%I', verb, schema, name), format('GRANT %%s ON %%I.%%I TO coatcheck_%%s', verb, schema, name, role)
FROM relations JOIN roles USING (role) JOIN pg_namespace AS n ON n.nspname = schema
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = name
WHERE NOT has_table_privilege(roles.oid, c.oid, verb)
UNION ALL
SELECT 'missing', 'coatcheck_' || role, format('%%s (%%s) ON %%I.%%I', verb, string_agg(quote_ident(field), ', ' ORDER BY field), schema, name),
       format('GRANT %%s (%%s) ON %%I.%%I TO coatcheck_%%s', verb, string_agg(quote_ident(field), ', ' ORDER BY field), schema, name, role)
FROM column_grants JOIN roles USING (role) JOIN pg_namespace AS n ON n.nspname = schema
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = name
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = field AND NOT a.attisdropped
WHERE NOT has_column_privilege(roles.oid, c.oid, a.attnum, verb)
GROUP BY verb, schema, name, role
UNION ALL
SELECT 'missing', 'coatcheck_' || role, format('EXECUTE ON FUNCTION %%s', p.oid::regprocedure),
       format('GRANT EXECUTE ON FUNCTION %%s TO coatcheck_%%s', p.oid::regprocedure, role)
FROM object_grants JOIN roles USING (role)
JOIN pg_proc AS p ON p.pronamespace = to_regnamespace('coatcheck') AND p.proname = name
WHERE verb = 'EXECUTE' AND NOT has_function_privilege(roles.oid, p.oid, 'EXECUTE')
UNION ALL
SELECT 'missing', 'coatcheck_' || role, format('USAGE ON SEQUENCE %%I.%%I', n.nspname, s.relname), format('GRANT USAGE ON SEQUENCE %%I.%%I TO coatcheck_%%s', n.nspname, s.relname, role)
FROM roles, target JOIN pg_depend AS d ON (d.refclassid, d.refobjid, d.classid, d.deptype) = ('pg_class'::regclass, target.oid, 'pg_class'::regclass, 'a')
JOIN pg_class AS s ON s.oid = d.objid JOIN pg_namespace AS n ON n.oid = s.relnamespace
WHERE role = 'loader' AND CASE s.relkind WHEN 'S' THEN NOT has_sequence_privilege(roles.oid, s.oid, 'USAGE') END  -- of a serial column
UNION ALL
SELECT 'missing', 'coatcheck_operator', 'membership in coatcheck_loader', 'GRANT coatcheck_loader TO coatcheck_operator'
FROM roles AS operator JOIN roles AS loader ON loader.role = 'loader'
WHERE operator.role = 'operator' AND NOT pg_has_role(operator.oid, loader.oid, 'USAGE')
UNION ALL
SELECT 'missing', 'coatcheck_' || role, format('ownership of %%I.%%I', n.nspname, c.relname), format('ALTER VIEW %%I.%%I OWNER TO coatcheck_rotator', n.nspname, c.relname)
FROM roles JOIN pg_class AS c ON c.relname = %(view)s AND c.relkind = 'v'
JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = %(schema)s
JOIN target ON target.oid IN (SELECT refobjid FROM pg_depend JOIN pg_rewrite AS w ON w.oid = objid AND w.ev_class = c.oid)
WHERE role = 'rotator' AND c.relowner <> roles.oid
  AND has_schema_privilege(roles.oid, n.oid, 'CREATE') AND has_table_privilege(roles.oid, target.oid, 'SELECT')
UNION ALL
SELECT 'excess', 'coatcheck_' || roles.role, format('%%s ON SCHEMA coatcheck', acl.privilege_type),
       format('REVOKE %%s ON SCHEMA coatcheck FROM %%s', acl.privilege_type, coalesce('coatcheck_' || roles.role, 'PUBLIC'))
FROM pg_namespace AS n, aclexplode(n.nspacl) AS acl LEFT JOIN roles ON roles.oid = acl.grantee
WHERE n.nspname = 'coatcheck' AND (acl.grantee = 0 OR roles.role <> 'owner') AND acl.grantee <> n.nspowner
  AND NOT EXISTS (SELECT FROM schemas AS s WHERE s.role = roles.role AND s.verb = acl.privilege_type AND s.name = n.nspname)
UNION ALL
SELECT 'excess', 'coatcheck_' || roles.role, format('%%s ON %%I.%%I', acl.privilege_type, n.nspname, c.relname),
       format('REVOKE %%s ON %%I.%%I FROM %%s', acl.privilege_type, n.nspname, c.relname, coalesce('coatcheck_' || roles.role, 'PUBLIC'))
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace, aclexplode(c.relacl) AS acl LEFT JOIN roles ON roles.oid = acl.grantee
WHERE n.nspname = 'coatcheck' AND (acl.grantee = 0 OR roles.role <> 'owner') AND acl.grantee <> c.relowner
  AND NOT EXISTS (SELECT FROM relations AS r WHERE r.role = roles.role AND r.verb = acl.privilege_type AND r.schema = n.nspname AND r.name = c.relname)
UNION ALL
SELECT 'excess', rolname, format('SELECT ON %%I.%%I', n.nspname, c.relname), format('REVOKE SELECT ON %%I.%%I FROM %%I', n.nspname, c.relname, rolname)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace, aclexplode(c.relacl) AS acl JOIN pg_roles ON pg_roles.oid = acl.grantee
WHERE n.nspname = 'coatcheck' AND acl.privilege_type = 'SELECT' AND acl.grantee <> c.relowner AND acl.grantee NOT IN (SELECT oid FROM roles)
  AND (c.relname = 'data_key' OR c.oid IN (SELECT relid FROM pg_partition_tree('coatcheck.vault')))  -- by ALTER DEFAULT PRIVILEGES
UNION ALL
SELECT 'excess', 'coatcheck_' || roles.role, format('EXECUTE ON FUNCTION %%s', p.oid::regprocedure),
       format('REVOKE EXECUTE ON FUNCTION %%s FROM %%s', p.oid::regprocedure, coalesce('coatcheck_' || roles.role, 'PUBLIC'))
FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS acl LEFT JOIN roles ON roles.oid = acl.grantee
WHERE p.pronamespace = to_regnamespace('coatcheck') AND (acl.grantee = 0 OR roles.role <> 'owner') AND acl.grantee <> p.proowner
  AND NOT EXISTS (SELECT FROM object_grants AS g WHERE g.role = roles.role AND g.verb = 'EXECUTE' AND g.name = p.proname)
UNION ALL
SELECT 'excess', 'coatcheck_' || roles.role, format('%%s (%%I) ON %%I.%%I', acl.privilege_type, a.attname, n.nspname, c.relname),
       format('REVOKE %%s (%%I) ON %%I.%%I FROM %%s', acl.privilege_type, a.attname, n.nspname, c.relname, coalesce('coatcheck_' || roles.role, 'PUBLIC'))
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace,
     aclexplode(a.attacl) AS acl LEFT JOIN roles ON roles.oid = acl.grantee
WHERE n.nspname = 'coatcheck' AND (acl.grantee = 0 OR roles.role <> 'owner') AND acl.grantee <> c.relowner
  AND NOT EXISTS (SELECT FROM column_grants AS g WHERE g.role = roles.role AND g.verb = acl.privilege_type AND g.schema = n.nspname AND g.name = c.relname AND g.field = a.attname)
ORDER BY 1, 4
