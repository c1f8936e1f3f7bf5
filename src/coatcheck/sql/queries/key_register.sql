-- Take note of the token keys of a keyring, and freeze the canonical form of each domain under the active one.
WITH keys AS (
    INSERT INTO coatcheck.token_key (kid, fingerprint)
    SELECT * FROM unnest(%(kids)s::text[], %(fingerprints)s::text[])
    ON CONFLICT DO NOTHING
)
INSERT INTO coatcheck.form (domain, kid, form_id)
SELECT domain, %(kid)s, form_id FROM unnest(%(domains)s::text[], %(form_ids)s::text[]) AS f (domain, form_id)
ON CONFLICT DO NOTHING
