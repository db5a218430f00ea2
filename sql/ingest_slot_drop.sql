-- Drops the slot, if it is there; fails while it is in use.
select pg_drop_replication_slot(s.slot_name) from pg_replication_slots s where s.slot_name::text = $1
