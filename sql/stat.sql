-- What only the sidecar knows, as real views over settings that Rektor sets in the client's session just before a
-- statement that names them.

create or replace function rektor.stat_setting(name text) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    value text := current_setting(name, true);
begin
    if value is null or value = '' then
        raise exception '% is known to Rektor only', name
            using errcode = '55000', hint = 'Connect through Rektor.';
    end if;
    return value::json;
end
$$;

-- New columns come last: nothing else of a view that someone's own view may rest on can be changed.
create or replace view rektor.stat_indexes as
select s.*
from json_to_recordset(rektor.stat_setting('rektor.stat_indexes')) as s (
    index_name text,
    table_name text,
    column_name text,
    metric text,
    method text,
    rows bigint,
    phase text,
    percent real,
    applied_lsn pg_lsn,
    lag_bytes bigint,
    memory_bytes bigint,
    error text,
    lag_seconds double precision,
    fetched_rows bigint,
    mended_rows bigint,
    audit_age interval,
    recall_target double precision,
    ef integer,
    recall_estimated double precision,
    recall_measured double precision,
    index_id bigint,
    memory_parts jsonb,
    expression text
)
-- What was dropped a moment ago may not be known to Rektor yet.
where exists (
    select from rektor.index i join pg_catalog.pg_class c on c.oid = i.relation where i.id = s.index_id
);
comment on view rektor.stat_indexes is 'One row an index: what it holds, where it is on its way, how far it is behind';

create or replace view rektor.stat_replication as
select s.*
from json_to_recordset(rektor.stat_setting('rektor.stat_replication')) as s (
    slot_name text,
    streaming boolean,
    received_lsn pg_lsn,
    durable_lsn pg_lsn,
    applied_lsn pg_lsn,
    upstream_lsn pg_lsn,
    lag_bytes bigint,
    error text,
    lag_seconds double precision,
    wal_status text,
    retained_bytes bigint,
    safe_wal_bytes bigint,
    last_error text,
    last_error_at timestamptz
);
comment on view rektor.stat_replication is 'One row: the stream that feeds this Rektor';

grant select on rektor.stat_indexes, rektor.stat_replication to public;
