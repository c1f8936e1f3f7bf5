-- Take note of the token keys of a keyring, and freeze the canonical form of each domain under the active one.
SELECT coatcheck.register_keys(%(kids)s::text[], %(fingerprints)s::text[], %(domains)s::text[], %(form_ids)s::text[])
