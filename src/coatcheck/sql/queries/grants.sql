-- The privileges of coatcheck's roles: one row for each that is missing, with the statement that grants it, and for each
-- that a role (or everybody) has in the schema coatcheck and should not have, with the statement that takes it away:
-- "excess" of a role of coatcheck's or of everybody, which `coatcheck migrate` takes away; "foreign" of anybody else's
-- role, which a person takes away; "harmless" of either, which shows no sealed value and changes nothing.
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
), expected (role, verb, name, field) AS (
    SELECT role, verb, name, NULL FROM object_grants
    UNION ALL SELECT role, verb, name, field FROM column_grants WHERE schema = 'coatcheck'
    UNION ALL SELECT role, verb, 'coatcheck', NULL FROM schemas WHERE name = 'coatcheck' AND verb = 'USAGE'
), held (kind, name, field, on_what, owner, grantee, verb, grantable) AS (
    SELECT 'schema', n.nspname::text, NULL::text, 'SCHEMA coatcheck', n.nspowner, acl.grantee, acl.privilege_type, acl.is_grantable
    FROM pg_namespace AS n, aclexplode(n.nspacl) AS acl WHERE n.nspname = 'coatcheck'
    UNION ALL
    SELECT c.relkind::text, c.relname, NULL,
           CASE c.relkind WHEN 'S' THEN 'SEQUENCE ' ELSE '' END || format('%%I.%%I', 'coatcheck', c.relname),
           c.relowner, acl.grantee, acl.privilege_type, acl.is_grantable
    FROM pg_class AS c, aclexplode(c.relacl) AS acl WHERE c.relnamespace = to_regnamespace('coatcheck')
    UNION ALL
    SELECT 'column', c.relname, a.attname, format('%%I.%%I', 'coatcheck', c.relname),
           c.relowner, acl.grantee, acl.privilege_type, acl.is_grantable
    FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid, aclexplode(a.attacl) AS acl
    WHERE c.relnamespace = to_regnamespace('coatcheck') AND NOT a.attisdropped
    UNION ALL
    SELECT 'function', p.proname, NULL, format('FUNCTION %%s', p.oid::regprocedure),
           p.proowner, acl.grantee, acl.privilege_type, acl.is_grantable
    FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS acl
    WHERE p.pronamespace = to_regnamespace('coatcheck')
)
SELECT 'missing', 'coatcheck_' || role, format('%%s ON SCHEMA %%I', verb, n.nspname), format('GRANT %%s ON SCHEMA %%I TO coatcheck_%%s', verb, n.nspname, role)
FROM schemas JOIN roles USING (role) JOIN pg_namespace AS n ON n.nspname = name
WHERE NOT has_schema_privilege(roles.oid, n.oid, verb)
UNION ALL
SELECT 'missing', 'coatcheck_' || role, format('%%s ON %%I.%%I', verb, schema, name), format('GRANT %%s ON %%I.%%I TO coatcheck_%%s', verb, schema, name, role)
FROM relations JOIN roles USING (role) JOIN pg_namespace AS n ON n.nspname = schema
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = name
WHERE NOT has_table_privilege(roles.oid, c.oid, verb)
  AND NOT (role = 'loader' AND verb = 'INSERT' AND schema = %(schema)s AND name = %(table)s  -- granted column by column
           AND coalesce((SELECT bool_and(has_column_privilege(roles.oid, c.oid, a.attnum, 'INSERT'))
                         FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = ANY (%(stored)s::text[])), false))
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
SELECT CASE WHEN harmless THEN 'harmless' WHEN holder.oid IS NULL OR roles.role IS NOT NULL THEN 'excess' ELSE 'foreign' END,
       holder.rolname, format('%%s ON %%s', verb_of, on_what),
       format('REVOKE %%s ON %%s FROM %%s', verb_of, on_what, coalesce(quote_ident(holder.rolname), 'PUBLIC'))
       || CASE WHEN grantable THEN ' CASCADE' ELSE '' END
FROM (
    SELECT *, CASE WHEN field IS NULL THEN verb ELSE format('%%s (%%I)', verb, field) END AS verb_of,
           (verb = 'SELECT' AND (name ~ '^(migration|batch|ledger(_[0-9]+|_forever)?|erased|policy|form|token_key)$' OR kind = 'S'))
           OR (verb = 'USAGE' AND kind = 'schema')
           OR (verb = 'EXECUTE' AND name IN ('figures', 'framed', 'audit_hash', 'clock')) AS harmless
    FROM held
) AS held
LEFT JOIN pg_roles AS holder ON holder.oid = held.grantee
LEFT JOIN roles ON roles.oid = held.grantee
WHERE (held.grantee = 0 OR holder.oid IS NOT NULL) AND roles.role IS DISTINCT FROM 'owner'
  AND (held.grantee = 0 OR NOT pg_has_role(held.grantee, held.owner, 'USAGE'))  -- has it anyway
  AND NOT EXISTS (SELECT FROM expected AS e
                  WHERE e.verb = held.verb AND e.name = held.name AND (e.field IS NULL OR e.field = held.field)
                    -- by hand a login may get what its job needs: the hints of `check` say how
                    AND (e.role = roles.role OR (roles.role IS NULL AND held.grantee <> 0 AND e.role IN ('loader', 'operator'))))
ORDER BY 1, 4
