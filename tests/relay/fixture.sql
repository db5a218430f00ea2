create table item (id int primary key, name text not null, price numeric(8, 2), tags text[], data jsonb, seen timestamptz);
insert into item
select n, 'item ' || n, n * 1.25, array['a' || n, null], jsonb_build_object('n', n), timestamptz '2026-01-01 00:00:00Z' + n * interval '1 hour'
from generate_series(1, 500) n;
create table account (id bigint primary key, balance numeric not null check (balance >= 0));
insert into account select n, 100 from generate_series(1, 20) n;
create table owned (id serial primary key, account bigint references account, note varchar(20) unique);
create type mood as enum ('sad', 'ok', 'happy');
create domain positive as int check (value > 0);
create table typed (
    a smallint, b bigint, c real, d double precision, e bytea, f uuid, g date, h interval, i mood, j positive, k inet,
    l int4range, m point, n bit(5), o macaddr, p time, q char(4), r "char", s boolean, t oid
);
insert into typed values
    (1, 2, 1.5, 2.5, '\x00ff', '6ecd8c99-4036-403d-bf84-cf8400f67836', '2026-02-28', '1 day 02:03:04', 'ok', 5, '10.0.0.1/8',
     '[1,5)', '(1,2)', B'10101', '08:00:2b:01:02:03', '12:34:56', 'ab', 'c', true, 42),
    (null, null, 'NaN', '-Infinity', null, null, 'infinity', null, 'happy', null, null, 'empty', null, null, null, null, null, null, null, null);
create view cheap as select id, name from item where price < 100;
create sequence counter;
create function add(a int, b int) returns int language sql immutable as 'select a + b';
create function complain(message text) returns void language plpgsql as $$
begin
    raise exception using message = message, detail = 'a detail', hint = 'a hint', errcode = 'P0042',
        table = 'item', column = 'name', constraint = 'no_constraint', datatype = 'text', schema = 'public';
end $$;
create function mention(message text) returns int language plpgsql as $$
begin
    raise notice '%', message using detail = 'seen', hint = 'nothing';
    raise warning 'and a warning';
    return 7;
end $$;
create procedure pay(payer bigint, payee bigint, amount numeric) language plpgsql as $$
begin
    update account set balance = balance - amount where id = payer;
    update account set balance = balance + amount where id = payee;
    commit;
end $$;
create procedure give(inout n int) language plpgsql as $$ begin n := n * 2; end $$;
create function pair(out a int, out b text) language sql as $$ select 1, 'two' $$;
create function cursors() returns setof refcursor language plpgsql as $$
declare c refcursor := 'from_function';
begin
    open c for select id from item order by id limit 3;
    return next c;
end $$;
create table audit (what text);
create function note_change() returns trigger language plpgsql as $$
begin
    insert into audit values (tg_op);
    raise notice 'audited %', tg_op;
    return null;
end $$;
create trigger audited after insert or update or delete on owned for each statement execute function note_change();
create table secret (id int primary key, owner name, body text);
alter table secret enable row level security;
insert into secret values (1, 'reader', 'mine'), (2, 'other', 'theirs');
create policy own_rows on secret using (owner = current_user);
do $$ begin create role reader login; exception when duplicate_object or unique_violation then null; end $$;
grant select on secret to reader;
grant select (id) on item to reader;
