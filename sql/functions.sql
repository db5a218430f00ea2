-- CREATE, DROP, ALTER and REINDEX of a faiss index, as functions that run with the rights of whoever calls them.

-- The name Postgres would choose: table_column_idx, shortened to 63 bytes, numbered when it is taken.
create or replace function rektor.choose_name(relation oid, columns name[]) returns name
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    longest constant int := 63;
    rel_schema oid;
    table_part text;
    column_part text := '';
    part text;
    label text;
    candidate text;
    pass int := 0;
begin
    select c.relnamespace, c.relname into rel_schema, part from pg_class c where c.oid = relation;
    foreach candidate in array columns loop
        column_part := column_part || case when column_part = '' then '' else '_' end || candidate;
        exit when octet_length(column_part) > longest;
    end loop;
    loop
        label := 'idx' || case when pass = 0 then '' else pass::text end;
        table_part := part;
        candidate := column_part;
        while octet_length(table_part) + octet_length(candidate) + octet_length(label) + 2 > longest loop
            if octet_length(table_part) > octet_length(candidate) then
                table_part := left(table_part, -1);
            else
                candidate := left(candidate, -1);
            end if;
        end loop;
        candidate := table_part || '_' || candidate || '_' || label;
        exit when not exists (select from pg_class c where c.relnamespace = rel_schema and c.relname = candidate)
            and not exists (
                select from rektor.index i join pg_class c on c.oid = i.relation
                where c.relnamespace = rel_schema and i.name = candidate);
        pass := pass + 1;
    end loop;
    return candidate;
end
$$;

-- The dimensions of a column that does not declare them: of its first row that is not null.
create or replace function rektor.first_dimensions(relation regclass, column_name name) returns int
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    dimensions int;
begin
    execute format('select %s from %s where %I is not null limit 1',
        case (select a.atttypid from pg_attribute a where a.attrelid = relation and a.attname = column_name)
            when 'bit'::regtype then format('length(%I)', column_name)
            else format('cardinality(%I::real[])', column_name) end, relation, column_name) into dimensions;
    return nullif(dimensions, 0);
end
$$;

-- An expression over the column, in the words of rektor.index; raises if there is no such type or function for the column.
create or replace function rektor.check_expression(expression text, type_id oid) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    checked constant text := regexp_replace(lower(trim(expression)), '\s*,\s*', ', ', 'g');
begin
    if checked is null then
        return null;
    end if;
    if checked !~ '^(vector|halfvec|binary_quantize|subvector\([1-9][0-9]{0,4}, [1-9][0-9]{0,4}\)(::vector|::halfvec)?)$' then
        raise exception 'expression "%" cannot be indexed', expression
            using errcode = '0A000', hint = 'There are vector, halfvec, binary_quantize and subvector(start, count).';
    end if;
    if rektor.expression_type(type_id, checked) is null then
        if checked in ('vector', 'halfvec') then
            raise exception 'cannot cast type % to %', format_type(type_id, null), checked using errcode = '42846';
        end if;
        raise exception 'function %(%) does not exist', substring(checked from '^[a-z_]+'),
            concat_ws(', ', format_type(type_id, null), case when checked like 'subvector%' then 'integer, integer' end)
            using errcode = '42883';
    end if;
    return checked;
end
$$;

-- Before there were expressions, create_index had one parameter less.
drop function if exists rektor.create_index(name, regclass, name, name, name[], jsonb, boolean);

create or replace function rektor.create_index(
    name name,
    relation regclass,
    column_name name,
    opclass name default null,
    include name[] default '{}',
    options jsonb default '{}',
    if_not_exists boolean default false,
    expression text default null
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    indexed_column pg_attribute;
    type_name text;
    class_type text;
    metric text;
    declared int;
    dimensions int;
    most_dimensions int;
    chosen name := name;
    included name;
    part int[];
begin
    perform rektor.check_table(relation);
    if not rektor.owns(relation) then
        raise exception 'must be owner of table %', (select c.relname from pg_class c where c.oid = relation) using errcode = '42501';
    end if;
    if chosen is not null and if_not_exists and exists (
        select from pg_class t
        where t.oid = relation and (
            exists (select from pg_class c where c.relnamespace = t.relnamespace and c.relname = chosen)
            or exists (
                select from rektor.index i join pg_class c on c.oid = i.relation
                where c.relnamespace = t.relnamespace and i.name = chosen))
    ) then
        raise notice 'relation "%" already exists, skipping', chosen using errcode = '42P07';
        return;
    end if;
    indexed_column := rektor.check_column(relation, column_name);

    expression := rektor.check_expression(expression, indexed_column.atttypid);
    type_name := rektor.expression_type(indexed_column.atttypid, expression);

    opclass := coalesce(opclass, case type_name
        when 'halfvec' then 'halfvec_l2_ops' when 'bit' then 'bit_hamming_ops' else 'vector_l2_ops' end);
    class_type := coalesce(
        substring(opclass from '^(vector|halfvec)_(?:l2|ip|cosine|l1)_ops$'), substring(opclass from '^(bit)_(?:hamming|jaccard)_ops$'));
    metric := substring(opclass from '^[a-z]+_([a-z0-9]+)_ops$');
    most_dimensions := case class_type when 'bit' then 64000 else 16000 end;
    if class_type is null then
        raise exception 'operator class "%" does not exist for access method "faiss"', opclass
            using errcode = '42704',
            hint = 'There are vector_l2_ops, vector_ip_ops, vector_cosine_ops, vector_l1_ops, the same of halfvec, bit_hamming_ops and bit_jaccard_ops.';
    end if;
    if class_type = 'bit' and indexed_column.atttypid = 'varbit'::regtype then
        raise exception 'type not supported for faiss index' using errcode = '0A000', hint = 'Use bit(n).';
    end if;
    if type_name is null or class_type <> replace(type_name, 'real[]', 'vector') then
        raise exception 'operator class "%" does not accept data type %', opclass,
            coalesce(type_name, format_type(indexed_column.atttypid, null)) using errcode = '42804';
    end if;
    foreach included in array coalesce(include, '{}') loop
        perform rektor.check_include(relation, included);
    end loop;

    -- pgvector's type modifier is the number of dimensions.
    declared := case when indexed_column.atttypid <> 'real[]'::regtype and indexed_column.atttypmod > 0 then indexed_column.atttypmod end;
    part := regexp_match(expression, '^subvector\(([0-9]+), ([0-9]+)\)')::int[];
    if part is not null then
        if declared < part[1] + part[2] - 1 then
            raise exception 'expected % dimensions, not %', part[2], greatest(declared - part[1] + 1, 0) using errcode = '22000';
        end if;
        declared := part[2];
    end if;
    if options ? 'dimensions' then
        dimensions := rektor.check_option_range('dimensions', options ->> 'dimensions', 1, most_dimensions);
        -- bit(n) cuts off and fills up.
        if dimensions <> declared and expression <> 'binary_quantize' then
            raise exception 'expected % dimensions, not %', dimensions, declared using errcode = '22000';
        elsif dimensions <> declared and expression is null then
            raise exception 'column "%" has % dimensions, not %', column_name, declared, dimensions using errcode = '22023';
        end if;
        options := options - 'dimensions';
    end if;
    options := rektor.check_options(options);
    dimensions := coalesce(dimensions, declared, rektor.first_dimensions(relation, column_name));
    if dimensions is null then
        raise exception 'column does not have dimensions'
            using errcode = '22023', hint = 'Name them: WITH (dimensions = …).';
    end if;
    if dimensions > most_dimensions then
        raise exception 'column cannot have more than % dimensions for faiss index', most_dimensions using errcode = '54000';
    end if;

    chosen := coalesce(chosen, rektor.choose_name(relation,
        array[coalesce(substring(expression from '^(binary_quantize|subvector)'), column_name)]::name[] || coalesce(include, '{}')));
    insert into rektor.index (name, relation, column_name, metric, dimensions, include, options, expression)
    values (chosen, relation, column_name, metric, dimensions, coalesce(include, '{}'), options, expression);
end
$$;
comment on function rektor.create_index is
    'CREATE INDEX name ON relation USING faiss (column_name opclass) INCLUDE (include) WITH (options), or on an expression of the column: halfvec, vector, binary_quantize, subvector(start, count)';

-- From here on names are looked up in the caller's search_path, so these functions cannot set their own: what could be
-- taken for something else there (variadic and polymorphic functions) is qualified.

-- The id of the index of that name, looked for in the caller's search_path if no schema is given; null if there is none.
create or replace function rektor.find_index(schema_name name, index_name name) returns bigint
language plpgsql stable
as $$
begin
    return (
        select i.id
        from rektor.index i
        join pg_catalog.pg_class c on c.oid = i.relation
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where i.name = index_name
            and case when schema_name is null then n.nspname = any (current_schemas(true)) else n.nspname = schema_name end
        order by pg_catalog.array_position(current_schemas(true), n.nspname)
        limit 1);
end
$$;

-- The id of the index to be changed; null after a NOTICE if it may be missing. Errors as ALTER INDEX and DROP INDEX give.
create or replace function rektor.own_index(schema_name name, index_name name, missing text, sqlstate_missing text, may_be_missing boolean)
returns bigint
language plpgsql stable
as $$
declare
    found_id bigint := rektor.find_index(schema_name, index_name);
begin
    if found_id is null then
        if may_be_missing then
            raise notice '% "%" does not exist, skipping', missing, index_name;
            return null;
        end if;
        raise exception '% "%" does not exist', missing, index_name using errcode = sqlstate_missing;
    end if;
    if not (select rektor.owns(i.relation) from rektor.index i where i.id = found_id) then
        raise exception 'must be owner of index %', index_name using errcode = '42501';
    end if;
    return found_id;
end
$$;

-- 'a' or 'a.b', quoted where SQL would, → {null, a} or {a, b}.
create or replace function rektor.parse_name(name text) returns name[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    parts text[] := parse_ident(name);
begin
    if cardinality(parts) > 2 then
        raise exception 'improper qualified name (too many dotted names): %', name using errcode = '42601';
    end if;
    return case cardinality(parts) when 1 then array[null, parts[1]] else parts end::name[];
end
$$;

create or replace function rektor.drop_index_at(schema_name name, index_name name, if_exists boolean) returns void
language plpgsql
as $$
declare
    target bigint := rektor.own_index(schema_name, index_name, 'index', '42704', if_exists);
begin
    delete from rektor.index where id = target;
end
$$;

create or replace function rektor.rename_index_at(schema_name name, index_name name, new_name name, if_exists boolean) returns void
language plpgsql
as $$
declare
    target bigint := rektor.own_index(schema_name, index_name, 'relation', '42P01', if_exists);
begin
    update rektor.index set name = new_name where id = target;
end
$$;

create or replace function rektor.alter_index_at(schema_name name, index_name name, set_options jsonb, reset_options text[]) returns void
language plpgsql
as $$
declare
    target bigint := rektor.own_index(schema_name, index_name, 'relation', '42P01', false);
    option text;
begin
    foreach option in array coalesce(reset_options, '{}') operator(pg_catalog.||) array(select jsonb_object_keys(coalesce(set_options, '{}'))) loop
        if option = 'dimensions' then
            raise exception 'dimensions of an index cannot be changed'
                using errcode = '0A000', hint = 'Drop the index and create another one.';
        elsif option not in ('method', 'm', 'ef_construction', 'storage', 'lists', 'factory') then
            raise exception 'unrecognized parameter "%"', option using errcode = '22023';
        end if;
    end loop;
    update rektor.index
    set options = (options - coalesce(reset_options, '{}')) || coalesce(set_options, '{}')
    where id = target;
end
$$;

create or replace function rektor.reindex_at(schema_name name, index_name name) returns void
language plpgsql
as $$
declare
    target bigint := rektor.own_index(schema_name, index_name, 'relation', '42P01', false);
begin
    update rektor.index set reindexed = reindexed + 1 where id = target;
end
$$;

create or replace function rektor.drop_index(name text, if_exists boolean default false) returns void
language sql
begin atomic
    select rektor.drop_index_at((rektor.parse_name(name))[1], (rektor.parse_name(name))[2], if_exists);
end;
comment on function rektor.drop_index is 'DROP INDEX name';

create or replace function rektor.rename_index(name text, new_name name) returns void
language sql
begin atomic
    select rektor.rename_index_at((rektor.parse_name(name))[1], (rektor.parse_name(name))[2], new_name, false);
end;
comment on function rektor.rename_index is 'ALTER INDEX name RENAME TO new_name';

create or replace function rektor.alter_index(name text, set_options jsonb default '{}', reset_options text[] default '{}') returns void
language sql
begin atomic
    select rektor.alter_index_at((rektor.parse_name(name))[1], (rektor.parse_name(name))[2], set_options, reset_options);
end;
comment on function rektor.alter_index is 'ALTER INDEX name SET (set_options), then RESET (reset_options)';

create or replace function rektor.reindex(name text) returns void
language sql
begin atomic
    select rektor.reindex_at((rektor.parse_name(name))[1], (rektor.parse_name(name))[2]);
end;
comment on function rektor.reindex is 'REINDEX INDEX name';
