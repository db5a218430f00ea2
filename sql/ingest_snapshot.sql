-- The snapshot of this transaction, and a position behind every commit that it shows: also one that did not wait for its
-- record to be written, which is inserted by then. At the beginning of a page the server names the place behind the page's
-- header, which is not written before the next record is: the end of the page before is as good, and is reached.
select
    pg_current_snapshot()::text as snapshot,
    (inserted.lsn - case
        when mod(inserted.lsn - '0/0'::pg_lsn, pg_size_bytes(current_setting('wal_segment_size'))) = 40 then 40
        when mod(inserted.lsn - '0/0'::pg_lsn, current_setting('wal_block_size')::numeric) = 24 then 24
        else 0
    end)::text as lsn
from (
    select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end
) inserted (lsn)
