-- Whether whoever has written to the table $1 (an OID) and has committed is visible to the next snapshot: a commit is sent to
-- those who follow the log before it is visible here (long before it, where it waits for a standby), and its locks go last.
-- Prepared transactions hold theirs as well.
select not exists (
    select from pg_catalog.pg_locks l
    where l.locktype = 'relation'
        and l.mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
        and l.granted
        and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
        and (
            l.relation = $1::oid
            or l.relation in (select part.relid::oid from pg_catalog.pg_partition_tree($1::oid::pg_catalog.regclass) part)
        )
)
