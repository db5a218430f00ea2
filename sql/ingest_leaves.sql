-- The parts of a table that hold rows: itself, or its leaf partitions. `moved` compares the file and the name that this
-- transaction's snapshot knows with the current ones. They differ after a rewrite or TRUNCATE that the snapshot does not
-- show, whose rows it would not see either, and after a rename.
select
    format('%I.%I', n.nspname, c.relname) as path,
    c.relkind = 'p' as partitioned,
    case when c.relkind = 'r' then pg_relation_size(c.oid) / current_setting('block_size')::bigint else 0 end as blocks,
    greatest(c.reltuples, 0)::float8 as rows,
    -- Of them, those that at most have all the columns $2.
    greatest(c.reltuples, 0)::float8 * (1 - coalesce((
        select max(s.null_frac)
        from pg_stats s
        where s.schemaname = n.nspname and s.tablename = c.relname and s.attname = any($2::text[]::name[])
    ), 0)) as complete_rows,
    has_table_privilege(c.oid, 'select') as may_select,
    c.relkind = 'r' and c.relfilenode is distinct from pg_relation_filenode(c.oid)
        or to_regclass(format('%I.%I', n.nspname, c.relname)) is distinct from c.oid::regclass as moved
from (
    select $1::oid as relid
    union
    select t.relid::oid from pg_partition_tree($1::oid::regclass) t where t.isleaf
) parts
join pg_class c on c.oid = parts.relid
join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p')
order by c.relkind = 'r', c.oid
