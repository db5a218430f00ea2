-- The tables that have an index, and still exist.
select c.oid, c.oid::regclass::text
from pg_catalog.pg_class c
where exists (select from rektor.index i where i.relation = c.oid)
order by 2
