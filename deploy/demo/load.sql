-- packages.tsv (see README.md) → table packages. Run by psql in this directory.
begin;
set local client_min_messages = warning; -- nothing to drop is nothing to say
drop table if exists packages;
create table packages (
    id integer primary key,
    name text not null unique,
    released date,
    downloads integer not null, -- rank by downloads, 1 is the most downloaded
    embedding vector(384) not null
);
create temporary table sample (id integer, name text, released date, downloads integer, bytes text) on commit drop;
\copy sample from packages.tsv
-- base64 of signed bytes → unit vectors
insert into packages
select id, name, released, downloads, l2_normalize((
    select array_agg((get_byte(raw, i) + 128) % 256 - 128 order by i)
    from generate_series(0, 383) i
)::vector)
from (select *, decode(bytes, 'base64') as raw from sample offset 0) decoded;
commit;
analyze packages;
