-- Every index of rektor.index, with what the catalogue says of its table, key and columns at this moment. Rows whose table
-- is gone are left out, as PostgreSQL drops an index with its table. NULL stands for what is not there.
-- `stamp` changes whenever a column of the index is altered (attribute numbers, types, modifiers, and the transaction that
-- last wrote their catalogue rows: a rewrite of the values shows nowhere else) and when the table left the publication and
-- came back. `part_…` are all partitions below the table: with the file that holds their rows, and what attached them
-- after they were created, perhaps with rows.
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
    coalesce(pr.oid is not null or pub.puballtables or pn.oid is not null, false) as published,
    coalesce(
        pub.pubinsert and pub.pubupdate and pub.pubdelete and pub.pubtruncate and (pub.pubviaroot or c.relkind <> 'p'),
        false) as publishes_all,
    pr.prattrs::int2[] as published_columns,
    pg_get_expr(pr.prqual, pr.prrelid) as row_filter,
    concat_ws(',', s.columns, pub.oid, pr.oid) as stamp,
    parts.oids as part_oids,
    parts.files as part_files,
    parts.attached as part_attached
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
left join pg_publication pub on pub.pubname = 'rektor'
left join pg_publication_rel pr on pr.prpubid = pub.oid and pr.prrelid = c.oid
left join pg_publication_namespace pn on pn.pnpubid = pub.oid and pn.pnnspid = c.relnamespace
left join lateral (
    select string_agg(
        format('%s:%s:%s:%s', a.attnum, a.atttypid, a.atttypmod, a.xmin), ',' order by a.attnum) as columns
    from pg_attribute a
    where a.attrelid = c.oid
        and (a.attname = i.column_name or a.attname = any (i.include) or a.attnum = any (k.numbers))
        and a.attnum > 0
        and not a.attisdropped
) s on true
left join lateral (
    select array_agg(t.relid::oid order by t.relid) as oids,
        array_agg(coalesce(pg_relation_filenode(t.relid), 0) order by t.relid) as files,
        -- a transaction's id reads as an OID, which drivers know
        array_agg(case when h.xmin <> y.xmin then h.xmin::text::oid end order by t.relid) as attached
    from pg_partition_tree(c.oid) t
    join pg_inherits h on h.inhrelid = t.relid
    join pg_type y on y.typrelid = t.relid
    where t.level > 0
) parts on c.relkind = 'p'
order by i.id
