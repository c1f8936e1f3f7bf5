-- Whether this user may carry out a rotation. Asked first: keys in files change before the database does.
SELECT has_function_privilege('coatcheck.key_event(text,text)', 'EXECUTE')
