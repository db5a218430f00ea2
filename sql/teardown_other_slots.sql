-- Slots of this database that look like other Rektors'.
select slot_name::text
from pg_catalog.pg_replication_slots
where database = current_database() and plugin = 'pgoutput' and not temporary
    and slot_name like 'rektor%' and slot_name <> $1::text
order by 1
