-- Comparing an index with its table. Rektor does it, just before a statement that calls the function with a constant or a
-- parameter, and leaves what it found in a setting of the session: an object, by the index's id.

-- Whether the current role may know of every row of the table.
create or replace function rektor.may_verify(index_id bigint) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select coalesce(
        (select rektor.owns(i.relation)
            or (has_table_privilege(i.relation, 'select') and not row_security_active(i.relation))
        from rektor.index i where i.id = index_id), false);
end;
comment on function rektor.may_verify is 'Whether the current role may compare the index with its table';

-- Names are looked up in the caller's search_path, so these functions cannot set their own.

-- The id of the index that verify_index will compare; null if it will say why not.
create or replace function rektor.verify_target(name text) returns bigint
language plpgsql stable
as $$
declare
    parts name[] := rektor.parse_name(name);
    found_id bigint := rektor.find_index(parts[1], parts[2]);
begin
    return case when rektor.may_verify(found_id) then found_id end;
exception
    when syntax_error or invalid_parameter_value or name_too_long then
        return null;
end
$$;

create or replace function rektor.verify_index(
    name text,
    out index_name text,
    out table_name text,
    out rows_table bigint,
    out rows_index bigint,
    out left_out bigint,
    out missing bigint,
    out extra bigint,
    out differing bigint,
    out repaired bigint,
    out unsettled bigint,
    out lsn pg_lsn,
    out recall double precision,
    out duration interval
) returns setof record
language plpgsql volatile strict
as $$
declare
    parts name[] := rektor.parse_name(name);
    target bigint := rektor.find_index(parts[1], parts[2]);
    known text := pg_catalog.current_setting('rektor.verify_index', true);
    relation regclass;
    found jsonb;
begin
    if target is null then
        raise exception 'index "%" does not exist', parts[2] using errcode = '42704';
    end if;
    select i.name, i.relation into strict index_name, relation from rektor.index i where i.id = target;
    if not rektor.may_verify(target) then
        raise exception 'permission denied for table %', relation using errcode = '42501';
    end if;
    if known is null or known = '' then
        raise exception 'rektor.verify_index is known to Rektor only'
            using errcode = '55000', hint = 'Connect through Rektor.';
    end if;
    found := known::jsonb -> target::text;
    if found is null then
        raise exception 'the index to be verified is not plain to see'
            using errcode = '0A000', hint = 'Name it by a constant or a parameter: rektor.verify_index(''…'').';
    end if;
    -- What was found is told once: a later call finds out again.
    perform pg_catalog.set_config('rektor.verify_index', (known::jsonb - target::text)::text, false);
    if found ? 'sqlstate' then
        raise exception '%', found ->> 'message' using errcode = found ->> 'sqlstate';
    end if;
    table_name := relation::text;
    rows_table := found ->> 'rows_table';
    rows_index := found ->> 'rows_index';
    left_out := found ->> 'left_out';
    missing := found ->> 'missing';
    extra := found ->> 'extra';
    differing := found ->> 'differing';
    repaired := missing + extra + differing;
    unsettled := found ->> 'unsettled';
    lsn := found ->> 'lsn';
    recall := found ->> 'recall';
    duration := pg_catalog.make_interval(secs => (found ->> 'seconds')::double precision);
    return next;
end
$$;
comment on function rektor.verify_index is
    'Compares every row of an index with its table, puts right what differs, and measures recall on the index''s own rows';
