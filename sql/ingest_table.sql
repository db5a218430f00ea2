-- What to select a table's rows from: itself alone, or all partitions below it.
select format('%s%I.%I', case c.relkind when 'r' then 'only ' else '' end, n.nspname, c.relname) as source
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where c.oid = $1 and c.relkind in ('r', 'p')
