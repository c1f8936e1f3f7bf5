-- Up to which version a program must know the schema to work on what the migrations beyond `known` have made.
SELECT max(coalesce(serves, version)) FROM coatcheck.migration WHERE version > %(known)s
