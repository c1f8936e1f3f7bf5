-- A few rows, as an analyst sees them.
SELECT left(user_id, 8) || '...' AS user_id, device_type, masked_ip, locale, app_version, create_date
FROM user_logins
LIMIT 4
