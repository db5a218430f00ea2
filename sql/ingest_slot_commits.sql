-- The beginnings of the transactions that the slot would tell next, up to a position: $1 is its name, $2 the position. Takes
-- nothing from it.
select c.data
from pg_logical_slot_peek_binary_changes(
    $1::text::name, $2::text::pg_lsn, null,
    'proto_version', '1', 'publication_names', 'rektor', 'binary', 'true', 'messages', 'true') c
where get_byte(c.data, 0) = ascii('B')
