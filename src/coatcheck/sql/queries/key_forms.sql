-- The canonical form of each domain as it was frozen for a token key.
SELECT domain, form_id FROM coatcheck.form WHERE kid = %(kid)s
