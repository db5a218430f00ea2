-- How the slot stands and how much WAL is held for it, or for the slots of copies under way; $1 is its name.
select
    s.wal_status,
    s.safe_wal_size,
    coalesce(to_jsonb(s) ->> 'invalidation_reason', case when to_jsonb(s) ->> 'conflicting' = 'true' then 'conflict' end) as invalidated,
    (
        select max(pg_wal_lsn_diff(now_at.lsn, o.restart_lsn))::bigint
        from pg_replication_slots o
        where o.slot_name = s.slot_name or starts_with(o.slot_name, left(s.slot_name, 40) || '_copy_')
    ) as retained
from pg_replication_slots s
cross join (select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end as lsn) now_at
where s.slot_name::text = $1
