-- The pipelines of this database, and whether the table that each is registered with still exists.
SELECT p.pipeline, p.table_schema, p.table_name, p.queue, p.epoch, p.keep_epochs,
       EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
               WHERE n.nspname = p.table_schema AND c.relname = p.table_name),
       p.clear
FROM coatcheck.pipeline AS p
ORDER BY p.pipeline
