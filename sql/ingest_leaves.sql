-- The parts of a table that hold rows: itself, or its leaf partitions. `rewritten` compares the file that this
-- transaction's snapshot knows with the current one: they differ after a rewrite or TRUNCATE that the snapshot does not
-- show, whose rows it would not see either.
select
    c.oid as relation,
    format('%I.%I', n.nspname, c.relname) as path,
    pg_relation_size(c.oid) / current_setting('block_size')::bigint as blocks,
    greatest(c.reltuples, 0)::float8 as rows,
    has_table_privilege(c.oid, 'select') as may_select,
    c.relfilenode is distinct from pg_relation_filenode(c.oid) as rewritten
from (
    select t.relid::oid as relid from pg_partition_tree($1::oid::regclass) t where t.isleaf
    union
    select $1::oid where (select r.relkind from pg_class r where r.oid = $1::oid) <> 'p'
) parts
join pg_class c on c.oid = parts.relid
join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r'
order by c.oid
