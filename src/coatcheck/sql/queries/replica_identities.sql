-- The tables that a publication covers and that have no replica identity: PostgreSQL refuses to update them and to
-- delete from them (55000). Looked for among coatcheck's own, and the target with its partitions.
WITH published AS (
    SELECT oid, puballtables FROM pg_catalog.pg_publication WHERE pubupdate OR pubdelete
), tables (oid) AS (
    SELECT unnest(%(behind)s::oid[])
    UNION
    SELECT oid FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.to_regnamespace('coatcheck')
)
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname)
FROM tables JOIN pg_catalog.pg_class AS c ON c.oid = tables.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'p'
  AND CASE c.relreplident
          WHEN 'f' THEN false
          WHEN 'd' THEN NOT EXISTS (SELECT FROM pg_catalog.pg_index AS i
                                    WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate AND i.indisvalid)
          WHEN 'i' THEN NOT EXISTS (SELECT FROM pg_catalog.pg_index AS i WHERE i.indrelid = c.oid AND i.indisreplident)
          ELSE true END
  AND EXISTS (
      SELECT FROM published, LATERAL (
          SELECT c.oid UNION SELECT relid FROM pg_catalog.pg_partition_ancestors(c.oid)
      ) AS line (oid) JOIN pg_catalog.pg_class AS lc ON lc.oid = line.oid
      WHERE published.puballtables
         OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel AS r WHERE r.prpubid = published.oid AND r.prrelid = line.oid)
         OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace AS s
                    WHERE s.pnpubid = published.oid AND s.pnnspid = lc.relnamespace))
ORDER BY 1
