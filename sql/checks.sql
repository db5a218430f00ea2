-- What may be indexed: checks shared by rektor.create_index and the triggers of rektor.index, with Postgres's own texts
-- and SQLSTATEs. Publishing a table can break its writes, so every table that it would break is refused here.

-- The columns that identify a row in the stream: the replica identity's, under FULL the primary key's; null if there is none.
create or replace function rektor.identity_columns(relation oid) returns smallint[]
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select (i.indkey::smallint[])[0:i.indnkeyatts - 1]
    from pg_class c
    join pg_index i on i.indrelid = c.oid
    where c.oid = identity_columns.relation
        and i.indisvalid and i.indimmediate and i.indpred is null and i.indexprs is null
        and case c.relreplident
            when 'i' then i.indisreplident
            when 'n' then false
            else i.indisprimary
        end;
end;

-- Raises if the table cannot be published, or if publishing it would break its own updates and deletes.
create or replace function rektor.check_table(relation oid) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    rel pg_class;
    kind text;
    rel_path text;
    key_column record;
    leaf record;
    unsendable record;
begin
    select * into rel from pg_class c where c.oid = check_table.relation;
    if not found then
        raise exception 'relation with OID % does not exist', relation using errcode = '42P01';
    end if;
    rel_path := format('%s.%I', rel.relnamespace::regnamespace, rel.relname);
    kind := case rel.relkind
        when 'v' then 'views'
        when 'm' then 'materialized views'
        when 'f' then 'foreign tables'
        when 'S' then 'sequences'
        when 'c' then 'composite types'
        when 't' then 'TOAST tables'
        when 'i' then 'indexes'
        when 'I' then 'partitioned indexes'
    end;
    if kind is not null then
        raise exception 'cannot create index on relation "%"', rel.relname
            using errcode = '42809', detail = format('This operation is not supported for %s.', kind);
    end if;
    if rel.relnamespace = 'pg_catalog'::regnamespace or rel.relnamespace = 'information_schema'::regnamespace
        or rel.relnamespace = 'rektor'::regnamespace then
        raise exception 'cannot create index on relation "%"', rel.relname
            using errcode = '42809', detail = 'This operation is not supported for system tables.';
    end if;
    if rel.relpersistence = 't' then
        raise exception 'cannot create a faiss index on temporary table "%"', rel.relname
            using errcode = '0A000', detail = 'Changes of temporary tables are not replicated.',
            hint = 'Use a permanent table.';
    elsif rel.relpersistence = 'u' then
        raise exception 'cannot create a faiss index on unlogged table "%"', rel.relname
            using errcode = '0A000', detail = 'Changes of unlogged tables are not replicated.',
            hint = format('Make the table logged with ALTER TABLE %s SET LOGGED.', rel_path);
    end if;
    if rel.relispartition then
        raise exception 'cannot create a faiss index on partition "%"', rel.relname
            using errcode = '0A000', detail = 'Changes of partitions are replicated as changes of the partitioned table.',
            hint = 'Create the index on the partitioned table.';
    end if;
    if rel.relkind = 'r' and exists (select from pg_inherits h where h.inhparent = rel.oid) then
        raise exception 'cannot create a faiss index on table "%" because it has child tables', rel.relname
            using errcode = '0A000', hint = 'Create the index on the child tables, or use partitioning.';
    end if;

    if rel.relreplident = 'n' then
        raise exception 'table "%" has replica identity NOTHING', rel.relname
            using errcode = '55000', detail = 'Publishing the table would make its updates and deletes fail.',
            hint = format('Use ALTER TABLE %s REPLICA IDENTITY DEFAULT.', rel_path);
    end if;
    if rektor.identity_columns(rel.oid) is null then
        if exists (select from pg_index i where i.indrelid = rel.oid and i.indisprimary and not i.indimmediate) then
            raise exception 'table "%" has a deferrable primary key', rel.relname
                using errcode = '55000', detail = 'Publishing the table would make its updates and deletes fail.',
                hint = 'Use a primary key that is not deferrable, or a unique index over NOT NULL columns with '
                    || format('ALTER TABLE %s REPLICA IDENTITY USING INDEX.', rel_path);
        end if;
        raise exception 'table "%" has no usable key', rel.relname
            using errcode = '55000', detail = 'A faiss index knows rows by the primary key, or by the replica identity index.',
            hint = format('Add one with ALTER TABLE %s ADD PRIMARY KEY.', rel_path);
    end if;
    for key_column in
        select a.attname, a.atttypid, a.atttypmod, a.attgenerated
        from unnest(rektor.identity_columns(rel.oid)) as k (attnum)
        join pg_attribute a on a.attrelid = rel.oid and a.attnum = k.attnum
    loop
        if key_column.attgenerated <> '' then
            raise exception 'key column "%" of table "%" is a generated column', key_column.attname, rel.relname
                using errcode = '0A000', detail = 'Generated columns are not replicated.';
        end if;
        if key_column.atttypid not in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'uuid'::regtype,
            'text'::regtype, 'varchar'::regtype) then
            raise exception 'key column "%" of table "%" has type %', key_column.attname, rel.relname,
                format_type(key_column.atttypid, key_column.atttypmod)
                using errcode = '0A000',
                hint = 'Key columns may have the types smallint, integer, bigint, uuid, text and character varying.';
        end if;
    end loop;
    -- Each partition's own replica identity decides whether its updates and deletes are allowed.
    for leaf in
        select c.relname, c.relnamespace::regnamespace as schema_name, c.relreplident, c.relpersistence, c.relkind
        from pg_partition_tree(rel.oid) t
        join pg_class c on c.oid = t.relid
        where t.isleaf and t.relid <> rel.oid
    loop
        if leaf.relkind <> 'r' or leaf.relpersistence <> 'p' then
            raise exception 'cannot create a faiss index on table "%" because partition "%" is not replicated',
                rel.relname, leaf.relname
                using errcode = '0A000', detail = 'Foreign and unlogged tables are not replicated.';
        end if;
        if leaf.relreplident not in ('d', 'f') then
            raise exception 'partition "%" of table "%" has a replica identity of its own', leaf.relname, rel.relname
                using errcode = '55000',
                hint = format('Use ALTER TABLE %s.%I REPLICA IDENTITY DEFAULT.', leaf.schema_name, leaf.relname);
        end if;
    end loop;
    -- One such value would end the stream of every table.
    select a.attname, format_type(a.atttypid, a.atttypmod) as type_name into unsendable
    from pg_attribute a
    join pg_type t on t.oid = a.atttypid
    join pg_type e on e.oid = t.typelem
    where a.attrelid = rel.oid and a.attnum > 0 and not a.attisdropped and t.typcategory = 'A' and e.typsend = 0
    limit 1;
    if found then
        raise exception 'column "%" of table "%" has type %', unsendable.attname, rel.relname, unsendable.type_name
            using errcode = '0A000', detail = 'Arrays of a type without a binary form cannot be replicated.';
    end if;
end
$$;

-- 'vector', 'halfvec', 'bit' or 'real[]' if vectors of that type can be indexed, else null.
create or replace function rektor.vector_type(type_id oid) returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select case
        when t.oid = 'real[]'::regtype then 'real[]'
        when t.oid = 'bit'::regtype and exists (select from pg_extension x where x.extname = 'vector') then 'bit'
        when t.typname in ('vector', 'halfvec') and e.extname = 'vector' then t.typname::text
    end
    from pg_type t
    left join pg_depend d
        on d.classid = 'pg_type'::regclass and d.objid = t.oid and d.deptype = 'e' and d.refclassid = 'pg_extension'::regclass
    left join pg_extension e on e.oid = d.refobjid
    where t.oid = type_id;
end;

-- The type of an expression of rektor.index over a column of that type, null if there is no such cast or function. Without
-- pgvector there are none.
create or replace function rektor.expression_type(type_id oid, expression text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select case
        when expression is null or column_type is null then column_type
        when not exists (select from pg_extension x where x.extname = 'vector') then null
        when expression in ('vector', 'halfvec') and column_type in ('vector', 'halfvec', 'real[]') then expression
        when column_type not in ('vector', 'halfvec') then null
        when expression = 'binary_quantize' then 'bit'
        when expression like 'subvector(%' then coalesce(substring(expression from '::(.*)$'), column_type)
    end
    from rektor.vector_type(type_id) as t (column_type);
end;

-- The number of dimensions that the column's type declares, as pgvector's types and bit can; null if it does not.
create or replace function rektor.declared_dimensions(relation oid, column_number smallint) returns int
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select a.atttypmod
    from pg_attribute a
    where a.attrelid = relation and a.attnum = column_number and not a.attisdropped and a.atttypmod > 0
        and rektor.vector_type(a.atttypid) in ('vector', 'halfvec', 'bit');
end;

-- Raises unless the column exists and its changes are replicated.
create or replace function rektor.check_column(relation oid, column_name name) returns pg_attribute
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found_column pg_attribute;
begin
    select * into found_column
    from pg_attribute a
    where a.attrelid = relation and a.attname = check_column.column_name and not a.attisdropped;
    if not found then
        raise exception 'column "%" does not exist', column_name using errcode = '42703';
    end if;
    if found_column.attnum < 0 then
        raise exception 'index creation on system columns is not supported' using errcode = '0A000';
    end if;
    if found_column.attgenerated <> '' then
        raise exception 'cannot index generated column "%"', column_name
            using errcode = '0A000', detail = 'Generated columns are not replicated.';
    end if;
    return found_column;
end
$$;

-- The same for a column that is kept beside the vector: its values travel in binary form.
create or replace function rektor.check_include(relation oid, column_name name) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    included pg_attribute := rektor.check_column(relation, column_name);
begin
    if (select t.typsend = 0 from pg_type t where t.oid = included.atttypid) then
        raise exception 'column "%" of type % cannot be included', column_name, format_type(included.atttypid, included.atttypmod)
            using errcode = '0A000', detail = 'The type has no binary form.';
    end if;
end
$$;

create or replace function rektor.check_option_range(option text, value text, low int, high int) returns int
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if value is null or value !~ '^\s*[+-]?[0-9]{1,18}\s*$' then
        raise exception 'invalid value for integer option "%": %', option, coalesce(value, '') using errcode = '22023';
    end if;
    if value::bigint not between low and high then
        raise exception 'value % out of bounds for option "%"', trim(value), option
            using errcode = '22023', detail = format('Valid values are between "%s" and "%s".', low, high);
    end if;
    return value::int;
end
$$;

create or replace function rektor.check_option_word(option text, value text, words text[]) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if value is null or lower(value) <> all (words) then
        raise exception 'invalid value for enum option "%": %', option, coalesce(value, '')
            using errcode = '22023',
            detail = format('Valid values are "%s"%s and "%s".',
                array_to_string(words[:cardinality(words) - 1], '", "'),
                case when cardinality(words) > 2 then ',' end, words[cardinality(words)]);
    end if;
    return lower(value);
end
$$;

-- The options in their stored form (numbers as numbers, words in lower case), or pgvector's own errors.
create or replace function rektor.check_options(options jsonb) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    checked jsonb := '{}';
    option text;
    value text;
    m int := 16;
    ef_construction int := 100;
begin
    if options is null or jsonb_typeof(options) <> 'object' then
        raise exception 'options must be a JSON object' using errcode = '22023';
    end if;
    for option, value in select * from jsonb_each_text(options) loop
        case option
            when 'method' then
                checked := checked || jsonb_build_object(option, rektor.check_option_word(option, value, '{hnsw,flat,ivf,factory}'));
            when 'storage' then
                checked := checked || jsonb_build_object(option, rektor.check_option_word(option, value, '{f32,f16,bf16,i8}'));
            when 'm' then
                m := rektor.check_option_range(option, value, 2, 100);
                checked := checked || jsonb_build_object(option, m);
            when 'lists' then
                checked := checked || jsonb_build_object(option, rektor.check_option_range(option, value, 1, 32768));
            when 'factory' then
                -- FAISS's words as src/catalog.rs has them; that they fit the column is seen when the index is made.
                if value is null or length(value) > 64
                    or value !~ '^((PCA|PCAR|RR)\d+,|OPQ\d+(_\d+)?,)?(IVF\d+(_HNSW\d+)?,(Flat|SQ[468]|SQfp16|SQbf16|RaBitQ|PQ\d+(x4|x8|x4fs|x4fsr)?)|HNSW\d+(,(Flat|SQ[468]|SQfp16|SQbf16|RaBitQ))?)$' then
                    raise exception 'invalid value for option "factory": %', coalesce(value, '')
                        using errcode = '22023',
                        detail = 'Known are IVFn,code and HNSWm,code behind an optional transform; codes are Flat, SQ8, SQfp16, PQmx4fs and RaBitQ.';
                end if;
                checked := checked || jsonb_build_object(option, value);
            when 'ef_construction' then
                ef_construction := rektor.check_option_range(option, value, 4, 1000);
                checked := checked || jsonb_build_object(option, ef_construction);
            else
                raise exception 'unrecognized parameter "%"', option using errcode = '22023';
        end case;
    end loop;
    if (checked ->> 'method' = 'factory') is distinct from (checked ? 'factory') and (checked ->> 'method' = 'factory' or checked ? 'factory') then
        raise exception 'method "factory" and option "factory" go together' using errcode = '22023';
    end if;
    if checked ->> 'storage' = 'i8' and checked ->> 'method' = 'flat' then
        raise exception 'storage "i8" keeps no vectors for method "flat" to compare' using errcode = '22023';
    end if;
    if ef_construction < 2 * m then
        if checked ? 'ef_construction' then
            raise exception 'ef_construction must be greater than or equal to 2 * m' using errcode = '22023';
        end if;
        -- The default gives way to a large m that was asked for.
        checked := checked || jsonb_build_object('ef_construction', 2 * m);
    end if;
    return checked;
end
$$;
