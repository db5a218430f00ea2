-- Whom the creation of the slot of that name waits for: transactions that were running when it began, of any database.
select
    b.pid,
    coalesce(a.usename::text, '') as role,
    coalesce(a.application_name, '') as application,
    coalesce(a.state, '') as state,
    coalesce(extract(epoch from now() - a.xact_start)::bigint, 0) as seconds
from pg_replication_slots s
cross join unnest(pg_blocking_pids(s.active_pid)) b (pid)
left join pg_stat_activity a on a.pid = b.pid
where s.slot_name::text = $1
order by seconds desc
limit 3
