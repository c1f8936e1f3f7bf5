-- serves: 0005
-- Replica identities: in a database under a publication (CREATE PUBLICATION ... FOR ALL TABLES) PostgreSQL refuses to
-- update or delete rows of a table without one.
-- Runs in one transaction, under an advisory lock, by `coatcheck migrate`; safe while workers run.

-- The record of batches was the only table without a primary key. A key, not REPLICA IDENTITY FULL: a subscriber would
-- search the whole table for each of the rows that are pruned every day. The table, which holds two days, is rewritten
-- once; loaders wait meanwhile: about three seconds for each million batches. All other tables, and the partitions of ledger and
-- vault (those to come, too), have the primary key that they were made with.
ALTER TABLE coatcheck.batch ADD COLUMN batch_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY;
