-- Transactions by number, as 64 bits: all before the first have ended, and none has begun that is not before the second.
select
    pg_snapshot_xmin(pg_current_snapshot())::text::bigint as oldest,
    pg_snapshot_xmax(pg_current_snapshot())::text::bigint as next
