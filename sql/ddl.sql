-- What the front end calls in place of CREATE INDEX … USING faiss and its kin: one command as JSON, names resolved by the
-- caller's search_path. A procedure, since CALL describes as having no result, like the statement it stands for.

create or replace procedure rektor.ddl(command jsonb)
language plpgsql
as $$
declare
    arguments jsonb;
    target regclass;
    item jsonb;
begin
    if command ? 'create_index' then
        arguments := command -> 'create_index';
        if arguments ->> 'schema' is not null and to_regnamespace(quote_ident(arguments ->> 'schema')) is null then
            raise exception 'schema "%" does not exist', arguments ->> 'schema' using errcode = '3F000';
        end if;
        target := to_regclass(pg_catalog.concat_ws('.', quote_ident(arguments ->> 'schema'), quote_ident(arguments ->> 'table')));
        if target is null then
            raise exception 'relation "%" does not exist', pg_catalog.concat_ws('.', arguments ->> 'schema', arguments ->> 'table')
                using errcode = '42P01';
        end if;
        if (arguments ->> 'only')::boolean
            and (select c.relkind = 'p' from pg_catalog.pg_class c where c.oid = target) then
            raise exception 'cannot create a faiss index on only a partitioned table'
                using errcode = '0A000', hint = 'Leave out ONLY.';
        end if;
        perform rektor.create_index(
            (arguments ->> 'name')::name,
            target,
            (arguments ->> 'column')::name,
            (arguments ->> 'opclass')::name,
            array(select jsonb_array_elements_text(coalesce(arguments -> 'include', '[]')))::name[],
            coalesce(arguments -> 'options', '{}'),
            coalesce((arguments ->> 'if_not_exists')::boolean, false),
            arguments ->> 'expression');
    elsif command ? 'drop_index' then
        arguments := command -> 'drop_index';
        for item in select value from jsonb_array_elements(arguments -> 'names') loop
            if rektor.find_index((item ->> 0)::name, (item ->> 1)::name) is not null then
                perform rektor.drop_index_at((item ->> 0)::name, (item ->> 1)::name, false);
            else
                -- One of Postgres's own indexes beside ours in the same statement, or none: Postgres says.
                execute pg_catalog.format('drop index %s %s',
                    case when (arguments ->> 'if_exists')::boolean then 'if exists' else '' end,
                    pg_catalog.concat_ws('.', quote_ident(item ->> 0), quote_ident(item ->> 1)));
            end if;
        end loop;
    elsif command ? 'rename_index' then
        arguments := command -> 'rename_index';
        perform rektor.rename_index_at(
            (arguments ->> 'schema')::name,
            (arguments ->> 'name')::name,
            (arguments ->> 'new_name')::name,
            coalesce((arguments ->> 'if_exists')::boolean, false));
    elsif command ? 'alter_index' then
        arguments := command -> 'alter_index';
        perform rektor.alter_index_at(
            (arguments ->> 'schema')::name,
            (arguments ->> 'name')::name,
            coalesce(arguments -> 'set', '{}'),
            array(select jsonb_array_elements_text(coalesce(arguments -> 'reset', '[]'))));
    elsif command ? 'reindex' then
        arguments := command -> 'reindex';
        perform rektor.reindex_at((arguments ->> 'schema')::name, (arguments ->> 'name')::name);
    else
        raise exception 'unknown command of rektor.ddl' using errcode = '22023';
    end if;
end
$$;
comment on procedure rektor.ddl is 'Called by Rektor in place of CREATE INDEX … USING faiss, and DROP, ALTER, REINDEX of such an index';
