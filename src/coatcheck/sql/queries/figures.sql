-- Counts of the quarantine of a pipeline, and of the desk, for metrics.
SELECT figure, label, value FROM coatcheck.figures(%(pipeline)s)
