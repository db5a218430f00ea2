-- The slot of that name, whether it can be ours, and who uses it.
select
    coalesce(s.plugin = 'pgoutput' and s.database = current_database(), false) as ours,
    s.active_pid,
    a.application_name
from pg_catalog.pg_replication_slots s
left join pg_catalog.pg_stat_activity a on a.pid = s.active_pid
where s.slot_name = $1::text
