-- For a database without pgvector: its distance functions and operators over real[], so that the same statements parse,
-- describe and fall back. Where pgvector is installed nothing is added: its columns convert to real[] by themselves, and
-- more candidates for <-> would change what its own statements mean.

do $do$
declare
    operators constant text[] := '{<->,l2_distance,<#>,negative_inner_product,<=>,cosine_distance,<+>,l1_distance}';
    body text;
    function_name text;
begin
    if exists (select from pg_catalog.pg_extension where extname = 'vector') then
        return;
    end if;
    -- A component that is null makes the distance null, as an index leaves such a row out.
    for function_name, body in
        select * from (values
            ('l2_distance', 'sqrt(sum((x::float8 - y) * (x::float8 - y)))'),
            ('inner_product', 'sum(x::float8 * y)'),
            ('negative_inner_product', '-sum(x::float8 * y)'),
            ('l1_distance', 'sum(abs(x::float8 - y))'),
            ('cosine_distance',
                'case when sum(x::float8 * x) * sum(y::float8 * y) = 0 then ''NaN'' '
                'else 1 - greatest(least(sum(x::float8 * y) / sqrt(sum(x::float8 * x) * sum(y::float8 * y)), 1), -1) end')
        ) as f (name, expression)
    loop
        execute format(
            $sql$
            create or replace function rektor.%1$I(a real[], b real[]) returns double precision
            language plpgsql immutable strict parallel safe cost 1000
            set search_path = pg_catalog, pg_temp
            as $f$
            begin
                if cardinality(a) <> cardinality(b) then
                    raise exception 'different vector dimensions %% and %%', cardinality(a), cardinality(b) using errcode = '22000';
                end if;
                return (select case when bool_and(x is not null and y is not null) then %2$s end from unnest(a, b) as u (x, y));
            end
            $f$
            $sql$, function_name, body);
        if function_name <> 'negative_inner_product' and to_regprocedure(format('public.%I(real[], real[])', function_name)) is null then
            execute format(
                $sql$
                create function public.%1$I(a real[], b real[]) returns double precision
                language sql immutable strict parallel safe cost 1000
                return rektor.%1$I(a, b)
                $sql$, function_name);
        end if;
    end loop;
    for i in 1 .. cardinality(operators) by 2 loop
        if to_regoperator(format('public.%s(real[], real[])', operators[i])) is null then
            execute format(
                'create operator public.%s (leftarg = real[], rightarg = real[], function = rektor.%I, commutator = operator(public.%1$s))',
                operators[i], operators[i + 1]);
        end if;
    end loop;
end
$do$;
