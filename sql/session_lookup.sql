-- What a session must know before it answers a k-NN statement from an index, in one row. Runs in the client's own session.
-- $1 the table as the statement writes it, $2 its OID as the index knows it, $3, $4 and $8 the columns the index knows, by
-- number, name and type, $5 how many of them, from the first, are the key, $6 functions and $7 types whose nature is not known,
-- $9 whether the session's settings were others since it was last asked, $10 the statement's other tables, as it writes them.
select
    pg_catalog.current_setting('rektor.consistency', true),
    pg_catalog.current_setting('rektor.min_lsn', true),
    pg_catalog.current_setting('hnsw.ef_search', true),
    pg_catalog.current_setting('rektor.recall_target', true),
    pg_catalog.current_setting('transaction_isolation'),
    pg_catalog.current_setting('client_encoding'),
    pg_catalog.current_setting('standard_conforming_strings'),
    pg_catalog.pg_current_xact_id_if_assigned() is not null,
    case
        when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
        -- A commit that did not wait is not written yet. (Elsewhere what others insert without writing it is not to be waited for.)
        when $9::bool or pg_catalog.current_setting('synchronous_commit') = 'off' then pg_catalog.pg_current_wal_insert_lsn()
        else pg_catalog.pg_current_wal_lsn()
    end,
    pg_catalog.to_regclass($1::text)::oid,
    (
        select pg_catalog.count(*) = pg_catalog.cardinality($3::int2[])
        from rows from (
            pg_catalog.unnest($3::int2[]), pg_catalog.unnest($4::name[]), pg_catalog.unnest($8::oid[])
        ) as known (number, name, type)
        join pg_catalog.pg_attribute a on a.attrelid = $2::oid and a.attnum = known.number and a.attname = known.name
            and a.atttypid = known.type
        where not a.attisdropped
    ),
    (
        select coalesce(pg_catalog.bool_and(pg_catalog.has_column_privilege($2::oid, number, 'SELECT')), false)
        from pg_catalog.unnest(($3::int2[])[1:$5::int4]) as key (number)
    ),
    not exists (
        select from pg_catalog.unnest($6::text[]) as called (name)
        join pg_catalog.pg_proc p on p.proname = pg_catalog.regexp_replace(called.name, '^.*\.', '')
        where p.prokind <> 'f' or p.provolatile = 'v' or p.proretset
    ),
    not exists (
        select from pg_catalog.unnest($7::text[]) as cast_to (name)
        join pg_catalog.pg_type t on t.typname = pg_catalog.regexp_replace(cast_to.name, '^.*\.', '')
        where t.typtype <> 'e'
    ),
    pg_catalog.has_table_privilege('pg_catalog.pg_locks', 'SELECT')
        and pg_catalog.has_function_privilege('pg_catalog.pg_lock_status()', 'EXECUTE'),
    pg_catalog.current_setting('ivfflat.probes', true),
    not exists (
        select from pg_catalog.unnest($10::text[]) as other (name)
        join pg_catalog.pg_class c on c.oid = pg_catalog.to_regclass(other.name)
        where c.relkind = 'v'
    )
