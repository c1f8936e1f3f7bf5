-- Register a pipeline. Nothing is written where nothing has changed.
INSERT INTO coatcheck.pipeline AS p (pipeline, table_schema, table_name, queue, epoch, keep_epochs, clear)
VALUES (%(pipeline)s, %(schema)s, %(table)s, %(queue)s, %(epoch)s, %(keep_epochs)s, %(clear)s::text[])
ON CONFLICT (pipeline) DO UPDATE
SET table_schema = excluded.table_schema, table_name = excluded.table_name, queue = excluded.queue,
    epoch = excluded.epoch, keep_epochs = excluded.keep_epochs, clear = excluded.clear, changed_at = now()
WHERE (p.table_schema, p.table_name, p.queue, p.epoch, p.keep_epochs, p.clear)
      IS DISTINCT FROM (excluded.table_schema, excluded.table_name, excluded.queue, excluded.epoch, excluded.keep_epochs,
                        excluded.clear)
