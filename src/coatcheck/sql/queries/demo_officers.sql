-- Two people with logins of their own: one may ask for originals, the other may approve.
CREATE ROLE olga LOGIN PASSWORD '{password}' IN ROLE coatcheck_revealer;
CREATE ROLE lars LOGIN PASSWORD '{password}' IN ROLE coatcheck_approver
