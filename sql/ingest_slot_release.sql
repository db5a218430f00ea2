-- Ends the walsender of ours that uses the slot: $1 is the slot's name, $2 the process.
select pg_terminate_backend(s.active_pid)
from pg_replication_slots s
where s.slot_name::text = $1 and s.active_pid = $2
