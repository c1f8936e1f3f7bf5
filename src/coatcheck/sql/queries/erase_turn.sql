-- Erasures take turns by the page, so that two which share a text do not both leave its original to the other.
SELECT pg_advisory_xact_lock(x'636f6178'::int)
