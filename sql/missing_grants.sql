-- The grants without which the owner of publication rektor cannot publish tables that hold vectors, one statement a row.
select distinct format('GRANT %I TO %I;', pg_get_userbyid(t.relowner), pg_get_userbyid(p.pubowner)) as statement
from pg_catalog.pg_publication p
join pg_catalog.pg_class t on not pg_has_role(p.pubowner, t.relowner, 'USAGE')
where p.pubname = 'rektor'
    and t.relkind in ('r', 'p') and not t.relispartition and t.relpersistence = 'p'
    and t.relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'rektor'::regnamespace)
    and exists (
        select from pg_catalog.pg_attribute a
        where a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped and rektor.vector_type(a.atttypid) is not null)
order by 1
