-- The token that most logins share.
SELECT masked_ip FROM user_logins GROUP BY masked_ip ORDER BY count(*) DESC, masked_ip LIMIT 1
