-- Sealed texts under the key that retires in a range of blocks, without an alias yet.
SELECT DISTINCT {column}::text
FROM ONLY {target} AS t
WHERE t.ctid >= %(first)s::tid AND t.ctid < %(beyond)s::tid AND starts_with({column}, %(prefix)s)
  AND NOT EXISTS (SELECT FROM coatcheck.alias WHERE old_token = {column} COLLATE "C")
