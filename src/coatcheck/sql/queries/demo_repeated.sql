-- Equal values have equal tokens: who shares an address?
SELECT masked_ip, count(*) AS logins, count(DISTINCT user_id) AS users, count(DISTINCT masked_device_id) AS devices
FROM user_logins
GROUP BY masked_ip
ORDER BY logins DESC, masked_ip
LIMIT 4
