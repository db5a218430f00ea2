-- Every index of rektor.index, with what the catalogue says of its table, key and columns at this moment. Rows whose table
-- is gone are left out, as PostgreSQL drops an index with its table. NULL stands for what is not there.
-- Columns are those of the attribute numbers, under their names of now, where the row's numbers hold (see schema.sql).
-- `stamp` changes whenever a column of the index is altered (attribute numbers, types, modifiers) and when the table left the
-- publication and came back. `written` are the transactions that last wrote the columns' catalogue rows, `file` what holds the
-- table: a rewrite of values without another type shows only in that both change (a renaming changes the first, VACUUM FULL the
-- second). `shape_…` are all columns as the stream tells them. `to_mend` says that the functions of mend.sql have something to
-- do. `part_…` are all partitions below the table: with the file that holds their rows, and what attached them after they
-- were created, perhaps with rows.
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
    coalesce(v.attname, i.column_name)::text as column_name,
    i.metric,
    coalesce(declared.dimensions, i.dimensions) as dimensions,
    i.options::text as options,
    i.reindexed,
    v.attnum as column_number,
    v.atttypid as column_type,
    vt.typname::text as column_type_name,
    k.immediate as key_immediate,
    k.names as key_names,
    k.numbers as key_numbers,
    k.types as key_types,
    coalesce(inc.names, '{}') as include_names,
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
    coalesce(s.written, '') as written,
    c.relfilenode as file,
    shape.numbers as shape_numbers,
    shape.names as shape_names,
    state.problem,
    w.reason as withdrawn,
    (state.problem is not null and pr.oid is not null)
        or (state.problem is null and w.relation is not null)
        or case when y.numbered then now_named.names is distinct from array[i.column_name] || i.include
            else array_position(number.found, null) is null end
        or coalesce(declared.dimensions <> i.dimensions, false) as to_mend,
    parts.oids as part_oids,
    parts.files as part_files,
    parts.linked as part_linked,
    parts.attached as part_attached,
    inc.deterministic as include_deterministic,
    to_jsonb(i) ->> 'expression' as expression, -- a schema of before has none
    pgvector.vector_type,
    pgvector.halfvec_type
from rektor.index i
join pg_class c on c.oid = i.relation
join pg_namespace n on n.oid = c.relnamespace
cross join lateral (
    select coalesce(i.numbered_for = i.relation::oid and i.numbered_in = i.xmin::text::bigint, false) as numbered
) y
cross join lateral (select rektor.table_problem(c.oid) as problem) state
cross join lateral (
    select case when y.numbered then i.column_numbers
        else rektor.column_numbers(c.oid, array[i.column_name] || i.include) end as found
) number
cross join lateral (select rektor.column_names(i.id) as names) now_named
left join rektor.withdrawn w on w.relation = c.oid
left join pg_attribute v on v.attrelid = c.oid and v.attnum = number.found[1] and not v.attisdropped
left join pg_type vt on vt.oid = v.atttypid
cross join lateral (
    select case when to_jsonb(i) ->> 'expression' is null then rektor.declared_dimensions(c.oid, v.attnum) end as dimensions
) declared
cross join (
    select max(t.oid) filter (where t.typname = 'vector') as vector_type,
        max(t.oid) filter (where t.typname = 'halfvec') as halfvec_type
    from pg_extension e
    join pg_depend d on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid
        and d.classid = 'pg_type'::regclass and d.deptype = 'e'
    join pg_type t on t.oid = d.objid
    where e.extname = 'vector'
) pgvector
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
        array_agg(coalesce(a.attname, u.name)::text order by u.place) as names,
        array_agg(a.atttypid order by u.place) as types,
        array_agg(coalesce(t.typsend <> 0 and coalesce(e.typsend <> 0, true), false) order by u.place) as sendable,
        array_agg(coalesce(l.collisdeterministic, true) order by u.place) as deterministic
    from rows from (unnest(i.include), unnest(number.found[2:])) with ordinality u (name, number, place)
    left join pg_attribute a on a.attrelid = c.oid and a.attnum = u.number and not a.attisdropped
    left join pg_type t on t.oid = a.atttypid
    left join pg_type e on e.oid = t.typelem and t.typcategory = 'A'
    left join pg_collation l on l.oid = a.attcollation
) inc on true
left join pg_publication pub on pub.pubname = 'rektor'
left join pg_publication_rel pr on pr.prpubid = pub.oid and pr.prrelid = c.oid
left join pg_publication_namespace pn on pn.pnpubid = pub.oid and pn.pnnspid = c.relnamespace
left join lateral (
    select string_agg(format('%s:%s:%s', a.attnum, a.atttypid, a.atttypmod), ',' order by a.attnum) as columns,
        string_agg(a.xmin::text, ',' order by a.attnum) as written
    from pg_attribute a
    where a.attrelid = c.oid
        and (a.attnum = any (number.found) or a.attnum = any (k.numbers))
        and a.attnum > 0
        and not a.attisdropped
) s on true
left join lateral (
    select array_agg(a.attnum order by a.attnum) as numbers, array_agg(a.attname::text order by a.attnum) as names
    from pg_attribute a
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        and (a.attgenerated = '' or a.attgenerated = 's' and to_jsonb(pub) ->> 'pubgencols' = 's')
        and (pr.prattrs is null or a.attnum = any (pr.prattrs::int2[]))
) shape on true
left join lateral (
    select array_agg(t.relid::oid order by t.relid) as oids,
        array_agg(coalesce(pg_relation_filenode(t.relid), 0) order by t.relid) as files,
        -- a transaction's id reads as an OID, which drivers know
        array_agg(h.xmin::text::oid order by t.relid) as linked,
        -- Created and attached by one transaction: attaching writes the columns anew, in the same command. (After a crash
        -- all commands of a transaction count as one; that matters for no partition that was seen before.)
        array_agg(
            h.xmin <> y.xmin or exists (
                select from pg_attribute a
                where a.attrelid = t.relid and a.attnum > 0 and a.xmin = h.xmin and a.cmin::text::bigint >= h.cmin::text::bigint
            ) order by t.relid) as attached
    from pg_partition_tree(c.oid) t
    join pg_inherits h on h.inhrelid = t.relid
    join pg_type y on y.typrelid = t.relid
    where t.level > 0
) parts on c.relkind = 'p'
order by i.id
