-- Counts of the quarantine and of the desk, for metrics.
SELECT figure, label, value FROM coatcheck.figures()
