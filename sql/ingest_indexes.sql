-- Every index of rektor.index, with what the catalogue says of its table, key and columns at this moment. Rows whose table
-- is gone are left out, as PostgreSQL drops an index with its table. NULL stands for what is not there.
-- `stamp` changes whenever a column of the index is altered: attribute numbers, types, modifiers, and the transaction that
-- last wrote their catalogue rows. A rewrite of the values shows nowhere else.
select
    i.id,
    i.name::text as index_name,
    i.relation::oid as relation,
    n.nspname::text as table_schema,
    c.relname::text as table_name,
    c.relkind::text as relation_kind,
    c.relpersistence::text as persistence,
    c.relreplident::text as replica_identity,
    has_table_privilege(c.oid, 'select') as may_select,
    i.column_name::text as column_name,
    i.metric,
    i.dimensions,
    i.options::text as options,
    i.reindexed,
    v.attnum as column_number,
    v.atttypid as column_type,
    vt.typname::text as column_type_name,
    k.immediate as key_immediate,
    k.names as key_names,
    k.numbers as key_numbers,
    k.types as key_types,
    i.include::text[] as include_names,
    inc.numbers as include_numbers,
    inc.types as include_types,
    inc.sendable as include_sendable,
    p.relid is not null as published,
    p.attrs::int2[] as published_columns,
    pg_get_expr(p.qual, p.relid) as row_filter,
    s.stamp
from rektor.index i
join pg_class c on c.oid = i.relation
join pg_namespace n on n.oid = c.relnamespace
left join pg_attribute v on v.attrelid = c.oid and v.attname = i.column_name and v.attnum > 0 and not v.attisdropped
left join pg_type vt on vt.oid = v.atttypid
left join lateral (
    select x.indimmediate as immediate,
        array_agg(a.attname::text order by u.place) as names,
        array_agg(a.attnum order by u.place) as numbers,
        array_agg(a.atttypid order by u.place) as types
    from pg_index x
    cross join unnest(x.indkey::int2[]) with ordinality u (attnum, place)
    join pg_attribute a on a.attrelid = c.oid and a.attnum = u.attnum
    where x.indrelid = c.oid
        and u.place <= x.indnkeyatts
        and case c.relreplident when 'i' then x.indisreplident when 'n' then false else x.indisprimary end
    group by x.indexrelid, x.indimmediate
) k on true
left join lateral (
    select array_agg(a.attnum order by u.place) as numbers,
        array_agg(a.atttypid order by u.place) as types,
        array_agg(coalesce(t.typsend <> 0 and coalesce(e.typsend <> 0, true), false) order by u.place) as sendable
    from unnest(i.include) with ordinality u (name, place)
    left join pg_attribute a on a.attrelid = c.oid and a.attname = u.name and a.attnum > 0 and not a.attisdropped
    left join pg_type t on t.oid = a.atttypid
    left join pg_type e on e.oid = t.typelem and t.typcategory = 'A'
) inc on true
left join pg_get_publication_tables('rektor') p on p.relid = c.oid
left join lateral (
    select coalesce(string_agg(
        format('%s:%s:%s:%s', a.attnum, a.atttypid, a.atttypmod, a.xmin), ',' order by a.attnum), '') as stamp
    from pg_attribute a
    where a.attrelid = c.oid
        and (a.attname = i.column_name or a.attname = any (i.include) or a.attnum = any (k.numbers))
        and a.attnum > 0
        and not a.attisdropped
) s on true
order by i.id
