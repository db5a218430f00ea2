-- What Rektor needs of the server whether schema rektor is installed or not: one point a row. $1 is the slot's name.
with setting as (
    select
        current_setting('server_version_num')::int as version,
        current_setting('server_version') as version_text,
        current_setting('wal_level') as wal_level,
        current_setting('max_replication_slots')::int as slots,
        current_setting('max_wal_senders')::int as senders,
        current_setting('max_slot_wal_keep_size') as keep_size,
        -- The first minor releases that lose no change when a publication is altered beside writes.
        case current_setting('server_version_num')::int / 10000 when 15 then 14 when 16 then 10 when 17 then 6 else 0 end as minor
), slot as (
    select * from pg_catalog.pg_replication_slots where slot_name = $1::text
), role as (
    select * from pg_catalog.pg_roles where rolname = current_user
), point (number, well, finding, mend) as (
    select 1, version % 10000 >= minor, format('PostgreSQL %s', version_text)
        || case when version % 10000 >= minor then '' else ' can lose changes when an index is created beside writes' end,
        format('update to PostgreSQL %s.%s or newer', version / 10000, minor)
    from setting
    union all
    select 2, not pg_is_in_recovery(),
        case when pg_is_in_recovery() then 'this server is a standby' else 'this server is the primary' end,
        'name the primary in --upstream'
    union all
    select 3, wal_level = 'logical', format('wal_level is %s', wal_level),
        E'ALTER SYSTEM SET wal_level = \'logical\';\n-- then restart PostgreSQL (on Amazon RDS: rds.logical_replication = 1)'
    from setting
    union all
    select 4, rolreplication or rolsuper,
        format('role %s %s', rolname, case when rolreplication or rolsuper then 'may replicate' else 'may not replicate' end),
        case
            when exists (select from pg_catalog.pg_roles where rolname = 'rds_replication')
                then format('GRANT rds_replication TO %I;', rolname)
            else format('ALTER ROLE %I REPLICATION;', rolname)
        end
    from role
    union all
    -- One slot for the stream, one for the time of a copy.
    select 5, slots - used >= 2 - ours, format('%s of %s replication slots are free', slots - used, slots),
        format(E'ALTER SYSTEM SET max_replication_slots = %s;\n-- then restart PostgreSQL', used + 2 - ours)
    from setting,
        (select count(*) from pg_catalog.pg_replication_slots) as u (used),
        (select count(*) from slot) as o (ours)
    union all
    select 6, senders - used >= 2 - ours, format('%s of %s WAL senders are free', senders - used, senders),
        format(E'ALTER SYSTEM SET max_wal_senders = %s;\n-- then restart PostgreSQL', used + 2 - ours)
    from setting,
        (select count(*) from pg_catalog.pg_stat_activity where backend_type = 'walsender') as u (used),
        (select count(*) from slot where active_pid is not null) as o (ours)
    union all
    select 7, keep_size <> '-1',
        case keep_size when '-1' then 'max_slot_wal_keep_size is unlimited: a Rektor that is down can fill the disk with WAL'
            else format('max_slot_wal_keep_size is %s', keep_size) end,
        E'ALTER SYSTEM SET max_slot_wal_keep_size = \'16GB\'; SELECT pg_reload_conf();'
    from setting
    union all
    select 8, false, format('idle_replication_slot_timeout is %s: a Rektor that is down for longer copies its tables again', value),
        'ALTER SYSTEM RESET idle_replication_slot_timeout; SELECT pg_reload_conf();'
    from (select current_setting('idle_replication_slot_timeout', true)) as t (value)
    where value <> '0'
    union all
    select 9, coalesce(plugin = 'pgoutput' and database = current_database(), false),
        format('replication slot %s %s', slot_name, case when coalesce(plugin = 'pgoutput' and database = current_database(), false)
            then 'is there' else 'is of another database or plugin' end),
        'choose another name with --slot'
    from slot
    union all
    select 10, wal_status <> 'lost', format('replication slot %s has lost its WAL', slot_name),
        format('SELECT pg_drop_replication_slot(%L);', slot_name)
    from slot
    where wal_status = 'lost'
    union all
    -- A healthy slot holds some segments; what holds more is named below, or Rektor does not run.
    select 11, held < 1 << 30,
        format('replication slot %s holds %s of WAL%s', slot_name, pg_size_pretty(held),
            case when active then '' else ', and nobody reads it' end),
        case when active then '-- end the transactions that hold it up, or wait until Rektor has caught up'
            else format(E'-- start Rektor, or, if it is to stay away:\nSELECT pg_drop_replication_slot(%L);', slot_name) end
    from slot, pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end, restart_lsn) as h (held)
    where held is not null
    union all
    -- Until it ends, WAL is kept from its beginning on, and no copy of a table begins.
    select 12, false,
        format('process %s (role %s, application "%s") has been in a transaction for %s minutes: it holds back the WAL of every logical slot, and a copy waits for it',
            pid, usename, application_name, (extract(epoch from now() - xact_start) / 60)::int),
        format('SELECT pg_terminate_backend(%s);', pid)
    from pg_catalog.pg_stat_activity
    where backend_xid is not null and xact_start < now() - interval '5 minutes'
    union all
    select 12, false,
        format('transaction "%s" has been prepared for %s minutes: it holds back the WAL of every logical slot, and a copy waits for it',
            gid, (extract(epoch from now() - prepared) / 60)::int),
        format(E'-- in database %I:\nCOMMIT PREPARED %L; -- or ROLLBACK PREPARED', database, gid)
    from pg_catalog.pg_prepared_xacts
    where prepared < now() - interval '5 minutes'
    union all
    -- Without rights to schema public the operators over real[] have no place.
    select 13, true, 'pgvector is installed', null
    where exists (select from pg_catalog.pg_extension where extname = 'vector')
)
select well, finding, mend from point order by number
