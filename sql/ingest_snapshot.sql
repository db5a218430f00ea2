-- The snapshot of this transaction, and a position behind every commit that it shows: also one that did not wait for its
-- record to be written, which is inserted by then.
select pg_current_snapshot()::text as snapshot, pg_current_wal_insert_lsn()::text as lsn
