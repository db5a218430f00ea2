-- What must hold once schema rektor is installed: one point a row.
with publication as (
    select * from pg_catalog.pg_publication where pubname = 'rektor'
), indexed as (
    select c.oid, c.oid::regclass::text as name, c.relowner, c.relrowsecurity
    from pg_catalog.pg_class c
    where exists (select from rektor.index i where i.relation = c.oid)
), point (number, well, finding, mend) as (
    select 1, false, 'publication rektor does not exist',
        E'rektor setup --upstream …\n-- or, by someone with the rights: rektor setup --print | psql …'
    where not exists (select from publication)
    union all
    select 2, complete,
        case when complete then 'publication rektor publishes every change' else 'publication rektor does not publish every change' end,
        E'ALTER PUBLICATION rektor SET (publish = \'insert, update, delete, truncate\', publish_via_partition_root = true);'
    from (select pubinsert and pubupdate and pubdelete and pubtruncate and pubviaroot and not puballtables from publication) as c (complete)
    union all
    select 3, published, format('%s is %s publication rektor', name, case when published then 'in' else 'not in' end),
        format('ALTER PUBLICATION rektor ADD TABLE ONLY %s;', name)
    from (
        select t.name, exists (
            select from pg_catalog.pg_publication_rel r join publication p on p.oid = r.prpubid where r.prrelid = t.oid)
        from (select oid, name from indexed union all select 'rektor.index'::regclass, 'rektor.index') as t
        where exists (select from publication) and not exists (select from rektor.withdrawn w where w.relation = t.oid)
    ) as p (name, published)
    union all
    select 3, false, format('%s is out of publication rektor, so that its updates and deletes work: %s', t.name, w.reason),
        '-- it comes back by itself once that is mended, while Rektor runs'
    from indexed t join rektor.withdrawn w on w.relation = t.oid
    union all
    select 4, false, format('publication rektor publishes %s with a row filter or a column list', name),
        format('ALTER PUBLICATION rektor DROP TABLE ONLY %1$s; ALTER PUBLICATION rektor ADD TABLE ONLY %1$s;', name)
    from indexed t
    join pg_catalog.pg_publication_rel r on r.prrelid = t.oid
    join publication p on p.oid = r.prpubid
    where r.prqual is not null or r.prattrs is not null
    union all
    select 5, false, format('role %s may not read %s', current_user, name),
        format('GRANT SELECT ON %s TO %I;', name, current_user)
    from indexed where not has_table_privilege(oid, 'SELECT')
    union all
    select 6, false, format('role %s may not use schema %I', current_user, n.nspname),
        format('GRANT USAGE ON SCHEMA %I TO %I;', n.nspname, current_user)
    from pg_catalog.pg_namespace n
    where not has_schema_privilege(n.oid, 'USAGE')
        and exists (select from indexed i join pg_catalog.pg_class c on c.oid = i.oid where c.relnamespace = n.oid)
    union all
    select 7, false, format('row security hides rows of %s from role %s', name, current_user),
        format('ALTER ROLE %I BYPASSRLS;', current_user)
    from indexed where row_security_active(oid)
    union all
    select 8, false, format('the owner of publication rektor may not publish tables of %s', pg_get_userbyid(o.relowner)),
        format('GRANT %I TO %I;', pg_get_userbyid(o.relowner), pg_get_userbyid(p.pubowner))
    from publication p
    join (
        select distinct t.relowner
        from pg_catalog.pg_class t
        where t.relkind in ('r', 'p') and not t.relispartition and t.relpersistence = 'p'
            and t.relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'rektor'::regnamespace)
            and exists (
                select from pg_catalog.pg_attribute a
                where a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped and rektor.vector_type(a.atttypid) is not null)
    ) as o on not pg_has_role(p.pubowner, o.relowner, 'USAGE')
    union all
    select 9, false, 'there are no distance operators: neither pgvector''s, nor Rektor''s over real[]',
        E'rektor setup --upstream …\n-- or: CREATE EXTENSION vector;'
    where to_regoperator('public.<->(real[], real[])') is null
        and not exists (select from pg_catalog.pg_extension where extname = 'vector')
)
select well, finding, mend from point order by number, finding
