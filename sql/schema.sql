-- Schema rektor: what an index is. Its rows are written by the functions of functions.sql in the client's own
-- session; every Rektor learns of them from the replication stream. Run as one transaction, again and again if need be.

create schema if not exists rektor;
grant usage on schema rektor to public;
comment on schema rektor is 'Rektor: FAISS indexes kept beside this database';

create table if not exists rektor.index (
    id bigint generated always as identity primary key,
    name name not null check (name <> ''),
    relation regclass not null,
    column_name name not null,
    metric text not null,
    dimensions int not null,
    include name[] not null default '{}',
    options jsonb not null default '{}' check (jsonb_typeof(options) = 'object'),
    reindexed bigint not null default 0,
    created_at timestamptz not null default now(),
    unique (relation, name)
);
-- Anew each time: an older version knew fewer.
alter table rektor.index drop constraint if exists index_metric_check;
alter table rektor.index add constraint index_metric_check check (metric in ('l2', 'ip', 'cosine', 'l1', 'hamming', 'jaccard'));
alter table rektor.index drop constraint if exists index_dimensions_check;
alter table rektor.index add constraint index_dimensions_check
    check (dimensions between 1 and 64000);
-- Columns are followed by attribute number, as Postgres's own indexes do: those of column_name and include, in that order.
-- They hold for the table with that OID, in the row that the transaction of that number wrote. pg_dump writes names: a row
-- that a restore wrote has numbers of another table and transaction, and its names count.
alter table rektor.index
    add column if not exists column_numbers smallint[],
    add column if not exists numbered_for oid,
    add column if not exists numbered_in bigint;
-- What of the column is indexed, if not the column itself: a cast to so many dimensions, a bit for each sign, some components.
alter table rektor.index add column if not exists expression text;
alter table rektor.index drop constraint if exists index_expression_check;
alter table rektor.index add constraint index_expression_check
    check (expression ~ '^(vector|halfvec|binary_quantize|subvector\([1-9][0-9]{0,4}, [1-9][0-9]{0,4}\)(::vector|::halfvec)?)$');
comment on table rektor.index is 'One row an index; written by rektor.create_index, drop_index, alter_index, rename_index and reindex';

-- Definitions are as public as pg_indexes; only a table's owner may write them.
alter table rektor.index enable row level security;
grant select, insert, update, delete on rektor.index to public;

-- Indexed tables that are out of the publication because publishing them would make their own updates and deletes fail.
create table if not exists rektor.withdrawn (
    relation oid primary key,
    reason text not null,
    since timestamptz not null default now()
);
comment on table rektor.withdrawn is 'Indexed tables that are not published until what would break their writes is gone';
grant select on rektor.withdrawn to public;

create or replace function rektor.owns(relation oid) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select coalesce(
        (select pg_has_role(current_user, c.relowner, 'USAGE') from pg_class c where c.oid = owns.relation), false);
end;
comment on function rektor.owns is 'Whether the current role owns the table, as Postgres asks before CREATE INDEX';

drop policy if exists read on rektor.index;
drop policy if exists insert_own on rektor.index;
drop policy if exists update_own on rektor.index;
drop policy if exists delete_own on rektor.index;
create policy read on rektor.index for select using (true);
create policy insert_own on rektor.index for insert with check (rektor.owns(relation));
create policy update_own on rektor.index for update using (rektor.owns(relation)) with check (rektor.owns(relation));
create policy delete_own on rektor.index for delete using (rektor.owns(relation));
