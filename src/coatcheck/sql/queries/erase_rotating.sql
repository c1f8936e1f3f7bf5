-- Whether a rotation has aliases.
SELECT EXISTS (SELECT FROM coatcheck.alias)
