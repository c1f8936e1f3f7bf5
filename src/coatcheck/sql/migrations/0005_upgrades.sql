-- Upgrades without a pause: which programs may go on while a newer schema is there.
-- Runs in one transaction, under an advisory lock, by `coatcheck migrate`; safe while workers run.

-- A program that knows the schema up to `serves`, or further, may work on the schema that this migration makes; NULL: only
-- one that knows the migration itself. What merely adds (expand) serves what was there before; what takes away (contract)
-- comes a release later, when no program needs it any more. The line "-- serves: NNNN" of a migration's file says it.
ALTER TABLE coatcheck.migration ADD COLUMN IF NOT EXISTS serves integer;
