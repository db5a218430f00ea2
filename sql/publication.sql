-- The publication that carries rektor.index and every indexed table, kept in step with the rows of rektor.index by
-- triggers in the same transaction.

do $$
begin
    if not exists (select from pg_catalog.pg_publication where pubname = 'rektor') then
        create publication rektor for table only rektor.index
            with (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);
    else
        alter publication rektor
            set (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);
        if not exists (
            select from pg_catalog.pg_publication_tables
            where pubname = 'rektor' and schemaname = 'rektor' and tablename = 'index'
        ) then
            alter publication rektor add table only rektor.index;
        end if;
    end if;
end
$$;

-- The attribute numbers of these columns; null for one that is not there.
create or replace function rektor.column_numbers(relation oid, names name[]) returns smallint[]
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select array_agg(a.attnum order by u.place)
    from unnest(names) with ordinality as u (name, place)
    left join pg_attribute a
        on a.attrelid = column_numbers.relation and a.attname = u.name and a.attnum > 0 and not a.attisdropped;
end;

-- What the columns of that index are called by now; null if one was dropped, or if the row's numbers do not hold.
create or replace function rektor.column_names(index_id bigint) returns name[]
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when bool_and(a.attnum is not null and not a.attisdropped) then array_agg(a.attname order by u.place) end
    from rektor.index i
    cross join unnest(i.column_numbers) with ordinality as u (number, place)
    left join pg_attribute a on a.attrelid = i.relation and a.attnum = u.number
    where i.id = index_id and i.numbered_for = i.relation::oid and i.numbered_in = i.xmin::text::bigint;
$$;

-- Before a row of rektor.index is written, by whichever way: it is valid, and its name is free. Runs as the owner of
-- schema rektor, since the invoker may not see everything; ownership of the table is the row security policies' part.
create or replace function rektor.check_index() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    included name;
    rel_schema oid;
    followed name[];
    same_columns boolean := false;
begin
    if tg_op = 'UPDATE' then
        if (new.id, new.relation, new.metric, new.expression) is distinct from (old.id, old.relation, old.metric, old.expression)
            or new.dimensions not in (old.dimensions,
                coalesce(rektor.declared_dimensions(old.relation, old.column_numbers[1]), old.dimensions)) then
            raise exception 'table, metric, expression and dimensions of an index cannot be changed'
                using errcode = '0A000', hint = 'Drop the index and create another one.';
        end if;
        -- The same columns, whatever they are called by now.
        followed := rektor.column_names(old.id);
        same_columns := coalesce(array[new.column_name] || new.include in (array[old.column_name] || old.include, followed), false);
        if same_columns and followed is not null then
            new.column_name := followed[1];
            new.include := followed[2:];
        end if;
    end if;
    new.column_numbers := rektor.column_numbers(new.relation, array[new.column_name] || new.include);
    new.numbered_for := new.relation;
    new.numbered_in := pg_current_xact_id()::text::bigint & 4294967295;
    if same_columns and (new.name, new.options, new.reindexed) is not distinct from (old.name, old.options, old.reindexed) then
        return new;
    end if;
    perform rektor.check_table(new.relation);
    if rektor.expression_type((rektor.check_column(new.relation, new.column_name)).atttypid, new.expression) is null then
        raise exception 'column "%" cannot be indexed', new.column_name
            using errcode = '42804', hint = 'Vectors are of type vector, halfvec, real[] or bit.';
    end if;
    foreach included in array new.include loop
        perform rektor.check_include(new.relation, included);
    end loop;
    new.options := rektor.check_options(new.options);
    if new.options ->> 'method' in ('ivf', 'factory') and new.metric not in ('l2', 'ip', 'cosine') then
        raise exception 'method "%" does not support distance "%"', new.options ->> 'method', new.metric using errcode = '0A000';
    end if;
    if new.metric in ('hamming', 'jaccard') and new.options ->> 'storage' <> 'f32' then
        raise exception 'storage "%" does not support distance "%"', new.options ->> 'storage', new.metric using errcode = '0A000';
    end if;

    -- Names of relations and of our indexes share one space a schema. Whoever takes a name waits for whoever takes it too.
    select c.relnamespace into rel_schema from pg_class c where c.oid = new.relation;
    perform pg_advisory_xact_lock(hashtextextended(format('rektor.index name %s.%s', rel_schema, new.name), 0));
    if exists (select from pg_class c where c.relnamespace = rel_schema and c.relname = new.name)
        or exists (
            select from rektor.index i join pg_class c on c.oid = i.relation
            where c.relnamespace = rel_schema and i.name = new.name and i.id is distinct from new.id
        ) then
        raise exception 'relation "%" already exists', new.name using errcode = '42P07';
    end if;
    return new;
end
$$;

-- After a row of rektor.index was written: the table is in the publication exactly as long as it has an index. Altering
-- the publication takes a role that owns both it and the table: a superuser, or one that was granted the owner's role.
create or replace function rektor.publish() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    rel oid := case when tg_op = 'DELETE' then old.relation else new.relation end;
    rel_path text;
    rel_owner name;
    published boolean;
    indexed boolean;
begin
    -- A first index and a last one's end, at the same time: the second to come decides by what the first has left.
    perform pg_advisory_xact_lock(hashtextextended(format('rektor.index table %s', rel), 0));
    -- Rows whose table was dropped went out of the publication with it.
    delete from rektor.index i where not exists (select from pg_class c where c.oid = i.relation);

    select format('%s.%I', c.relnamespace::regnamespace, c.relname), pg_get_userbyid(c.relowner)
    into rel_path, rel_owner
    from pg_class c where c.oid = rel;
    if not found then
        return null;
    end if;
    if not exists (select from pg_publication where pubname = 'rektor') then
        raise exception 'publication "rektor" does not exist' using errcode = '55000', hint = 'Run rektor setup.';
    end if;
    published := exists (
        select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
        where p.pubname = 'rektor' and r.prrelid = rel);
    indexed := exists (select from rektor.index i where i.relation = rel);
    if indexed and not published then
        execute format('alter publication rektor add table only %s', rel_path);
    elsif published and not indexed then
        execute format('alter publication rektor drop table only %s', rel_path);
    end if;
    return null;
exception when insufficient_privilege then
    raise exception 'role "%" may not publish table %', current_user, rel_path
        using errcode = '42501', detail = sqlerrm,
        hint = format('Let a superuser run: GRANT %I TO %I;', rel_owner, current_user);
end
$$;

revoke execute on function rektor.check_index() from public;
revoke execute on function rektor.publish() from public;

create or replace trigger check_index before insert or update on rektor.index
    for each row execute function rektor.check_index();
create or replace trigger publish after insert or delete on rektor.index
    for each row execute function rektor.publish();

-- Rows of an older version of this schema, and restored ones, get their numbers.
update rektor.index i set column_name = column_name
where rektor.column_names(i.id) is null
    and array_position(rektor.column_numbers(i.relation, array[i.column_name] || i.include), null) is null;
