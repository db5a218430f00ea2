-- The slot of that name, and who uses it.
select
    s.slot_type,
    s.plugin::text as plugin,
    s.database::text as database,
    s.temporary,
    s.active_pid,
    s.wal_status,
    s.confirmed_flush_lsn::text as confirmed_flush_lsn,
    coalesce(a.application_name, '') as holder_application,
    coalesce(a.client_addr::text, 'local') as holder_address
from pg_replication_slots s
left join pg_stat_activity a on a.pid = s.active_pid
where s.slot_name::text = $1
