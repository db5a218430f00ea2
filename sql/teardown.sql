-- Removes what setup installed, and nothing else: without CASCADE, so that a view of the user's that rests on it stops
-- the removal as a whole. The slot is dropped separately, since that cannot be rolled back.

drop publication if exists rektor;

do $do$
declare
    signatures text;
begin
    if to_regnamespace('rektor') is null then
        return;
    end if;
    -- Operators and functions that setup made outside of schema rektor rest on its functions.
    select string_agg(o.oid::regoperator::text, ', ') into signatures
    from pg_operator o
    join pg_proc p on p.oid = o.oprcode
    where p.pronamespace = 'rektor'::regnamespace and o.oprnamespace = 'public'::regnamespace;
    if signatures is not null then
        execute format('drop operator %s', signatures);
    end if;
    -- The one function whose body holds on to a table.
    drop routine if exists rektor.may_verify(bigint);
    drop view if exists rektor.stat_indexes, rektor.stat_replication;
    drop table if exists rektor.index, rektor.withdrawn;
    -- All in one command, since they rest on each other.
    select string_agg(p.oid::regprocedure::text, ', ') into signatures
    from pg_proc p
    where p.pronamespace = 'rektor'::regnamespace
        or (p.pronamespace = 'public'::regnamespace and exists (
            select from pg_depend d
            join pg_proc r on r.oid = d.refobjid
            where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.refclassid = 'pg_proc'::regclass
                and r.pronamespace = 'rektor'::regnamespace
                and p.proname in ('l2_distance', 'inner_product', 'l1_distance', 'cosine_distance')));
    if signatures is not null then
        execute format('drop routine %s', signatures);
    end if;
    drop schema rektor;
end
$do$;
