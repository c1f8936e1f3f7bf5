-- For the rest of this transaction the search_path that the login itself has, of server, database, role or connection
-- string. What follows must not depend on it, but for what is asked about it.
SELECT pg_catalog.set_config('search_path', reset_val, true)
FROM pg_catalog.pg_settings
WHERE name OPERATOR(pg_catalog.=) 'search_path'
