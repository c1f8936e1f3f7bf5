-- Give the rows in a range of blocks the tokens under the active key, as far as their aliases are known. Runs under the
-- login's search_path, for triggers: all is qualified.
UPDATE ONLY {target} AS t
SET {assignments}
WHERE t.ctid OPERATOR(pg_catalog.>=) %(first)s::pg_catalog.tid AND t.ctid OPERATOR(pg_catalog.<) %(beyond)s::pg_catalog.tid
  AND ({known})
