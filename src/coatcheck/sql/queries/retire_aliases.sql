-- Forget which token was which: who has the retired key could otherwise read the tokens of the active one.
DELETE FROM coatcheck.alias
WHERE old_token IN (SELECT old_token FROM coatcheck.alias WHERE split_part(old_token, '_', 3) = %(kid)s LIMIT %(limit)s)
