-- Whether policies decide what rows of a table the session's role may see.
select pg_catalog.row_security_active($1::oid)
