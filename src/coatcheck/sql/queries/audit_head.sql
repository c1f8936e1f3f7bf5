-- Number and hash of the last entry of the audit trail.
SELECT seq, hash FROM coatcheck.audit ORDER BY seq DESC LIMIT 1
