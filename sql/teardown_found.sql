-- What teardown will find to remove.
select
    exists (select from pg_catalog.pg_publication where pubname = 'rektor'),
    to_regnamespace('rektor') is not null,
    exists (
        select from pg_catalog.pg_operator o
        join pg_catalog.pg_proc p on p.oid = o.oprcode
        join pg_catalog.pg_namespace n on n.oid = p.pronamespace
        where n.nspname = 'rektor')
