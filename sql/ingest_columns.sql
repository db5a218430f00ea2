-- Whether these columns of the table, by number, are called this now.
select coalesce(bool_and(a.attname is not distinct from k.name), true) as as_named
from rows from (unnest($2::int2[]), unnest($3::text[])) as k (number, name)
left join pg_attribute a on a.attrelid = $1::oid and a.attnum = k.number and not a.attisdropped
