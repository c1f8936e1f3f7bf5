-- What could not be loaded, by reason.
SELECT reason, count(*) AS messages, string_agg(DISTINCT nullif(detail, ''), ', ') AS columns
FROM coatcheck.quarantine
GROUP BY reason
ORDER BY messages DESC, reason
