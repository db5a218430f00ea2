-- What PostgreSQL does by itself for its own indexes, and nobody tells us of: Rektor calls these functions when it finds by
-- reading the catalogue that there is something to do. Each looks again before it does anything.

-- Why publishing the table is wrong: it would make the table's own updates and deletes fail, or the changes would not all
-- come. Null if it is right. A row filter and a column list are only there if someone put them on by hand.
create or replace function rektor.table_problem(relation oid) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    identity smallint[] := rektor.identity_columns(relation);
    whole boolean;
    member record;
    hint text;
    detail text;
begin
    begin
        perform rektor.check_table(relation);
    exception when others then
        get stacked diagnostics hint = pg_exception_hint, detail = pg_exception_detail;
        return concat_ws(': ', sqlerrm, coalesce(nullif(hint, ''), nullif(detail, '')));
    end;
    select r.prattrs::smallint[] as columns, r.prqual::text as filter into member
    from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
    where p.pubname = 'rektor' and r.prrelid = table_problem.relation;
    if not found then
        return null;
    end if;
    -- Of a partitioned table each partition's own replica identity counts.
    whole := exists (
        select from pg_class c
        where c.relreplident = 'f'
            and (c.oid = table_problem.relation
                or c.oid in (select t.relid from pg_partition_tree(table_problem.relation) t where t.isleaf)));
    if member.columns is not null and (whole or not member.columns @> identity) then
        return 'publication rektor has a column list for the table that makes its updates and deletes fail';
    end if;
    if member.filter is not null and not whole and exists (
        select from regexp_matches(member.filter, ':varattno (\d+)', 'g') as m (found)
        where m.found[1]::smallint <> all (identity)
    ) then
        return 'publication rektor has a row filter for the table that makes its updates and deletes fail';
    end if;
    return null;
end
$$;

-- The caller's own right to what follows: to follow this database at all.
create or replace function rektor.require_replication() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (
        select from pg_roles r
        where r.rolname = session_user
            and (r.rolsuper or r.rolreplication
                or exists (select from pg_roles m where m.rolname = 'rds_replication' and pg_has_role(r.oid, m.oid, 'MEMBER')))
    ) then
        raise exception 'role "%" may not replicate', session_user using errcode = '42501';
    end if;
end
$$;

-- Takes tables out of the publication that break their own writes by being in it, and publishes them again once they would
-- not; what it did, one line each. What someone took out by hand stays out.
create or replace function rektor.mend_publication() returns setof text
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '3s'
as $$
declare
    item record;
    problem text;
    published boolean;
    was_withdrawn boolean;
begin
    perform rektor.require_replication();
    perform pg_advisory_xact_lock(hashtextextended('rektor.mend_publication', 0));
    delete from rektor.withdrawn w where not exists (select from rektor.index i where i.relation = w.relation);
    for item in
        select distinct c.oid as relation, format('%s.%I', c.relnamespace::regnamespace, c.relname) as path
        from rektor.index i join pg_class c on c.oid = i.relation
    loop
        problem := rektor.table_problem(item.relation);
        published := exists (
            select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
            where p.pubname = 'rektor' and r.prrelid = item.relation);
        was_withdrawn := exists (select from rektor.withdrawn w where w.relation = item.relation);
        if problem is not null and published then
            perform pg_advisory_xact_lock(hashtextextended(format('rektor.index table %s', item.relation), 0));
            execute format('alter publication rektor drop table only %s', item.path);
            -- A row filter or a column list goes with it.
            insert into rektor.withdrawn (relation, reason) values (item.relation, problem)
            on conflict on constraint withdrawn_pkey do update set reason = excluded.reason, since = now();
            return next format('table %s is taken out of publication rektor, so that its updates and deletes work: %s', item.path, problem);
        elsif problem is null and was_withdrawn then
            if not published then
                perform pg_advisory_xact_lock(hashtextextended(format('rektor.index table %s', item.relation), 0));
                execute format('alter publication rektor add table only %s', item.path);
            end if;
            delete from rektor.withdrawn w where w.relation = item.relation;
            return next format('table %s is in publication rektor again', item.path);
        elsif problem is not null and was_withdrawn then
            update rektor.withdrawn w set reason = problem where w.relation = item.relation and w.reason <> problem;
        end if;
    end loop;
end
$$;

-- Follows columns that were renamed or have other dimensions, and drops indexes that lost a column; what it did, one line each.
create or replace function rektor.mend_columns() returns setof text
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '3s'
as $$
declare
    item record;
begin
    perform rektor.require_replication();
    for item in
        delete from rektor.index i
        where i.numbered_for = i.relation::oid and i.numbered_in = i.xmin::text::bigint and exists (
            select from pg_attribute a
            where a.attrelid = i.relation and a.attnum = any (i.column_numbers) and a.attisdropped)
        returning i.name, i.relation::text as table_name
    loop
        return next format('index "%s" on %s is dropped with its column', item.name, item.table_name);
    end loop;
    for item in
        update rektor.index i
        set dimensions = case when rektor.column_names(i.id) is null or i.expression is not null then i.dimensions
            else coalesce(rektor.declared_dimensions(i.relation, i.column_numbers[1]), i.dimensions) end
        where exists (select from pg_class c where c.oid = i.relation)
            and case
                when rektor.column_names(i.id) is not null then
                    rektor.column_names(i.id) <> array[i.column_name] || i.include
                    or (i.expression is null and rektor.declared_dimensions(i.relation, i.column_numbers[1]) <> i.dimensions)
                else array_position(rektor.column_numbers(i.relation, array[i.column_name] || i.include), null) is null
            end
        returning i.name, i.relation::text as table_name
    loop
        return next format('index "%s" on %s follows its columns', item.name, item.table_name);
    end loop;
end
$$;
