-- Forget which token was which: who has the retired key could otherwise read the tokens of the active one. A page of one
-- domain; [first, beyond) is the range of the old tokens.
DELETE FROM coatcheck.alias
WHERE old_token IN (SELECT old_token FROM coatcheck.alias WHERE old_token >= %(first)s AND old_token < %(beyond)s
                    ORDER BY old_token LIMIT %(limit)s)
