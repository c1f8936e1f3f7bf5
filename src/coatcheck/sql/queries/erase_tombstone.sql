-- What stands in place of an erased text: of the same domain and key id ({domain} and k0 if it had none), else random, and
-- another one in each row, so that erased rows cannot be grouped. A part of other statements; all in it is qualified.
pg_catalog.concat_ws(
    '_', 'px1', coalesce(substring({text} FROM '^p[ts]1_([a-z0-9]{{1,16}})_k[0-9a-z]{{1,6}}_'), {domain}),
    coalesce(substring({text} FROM '^p[ts]1_[a-z0-9]{{1,16}}_(k[0-9a-z]{{1,6}})_'), 'k0'),
    pg_catalog.left(pg_catalog.encode(pg_catalog.sha256(
        pg_catalog.uuid_send(pg_catalog.gen_random_uuid())
        OPERATOR(pg_catalog.||) pg_catalog.uuid_send(pg_catalog.gen_random_uuid())), 'hex'), 40))
