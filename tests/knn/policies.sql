-- {v} is the type of a vector of four dimensions
create table place (id int primary key, org int not null, kind text, secret text, v {v});
create table org_member (who name, org int);
do $$ begin create role reader login; exception when duplicate_object or unique_violation then null; end $$;
do $$ begin create role writer login; exception when duplicate_object or unique_violation then null; end $$;
do $$ begin create role stranger login; exception when duplicate_object or unique_violation then null; end $$;
insert into org_member values ('reader', 1), ('reader', 7), ('writer', 2), ('writer', 1);
create function my_orgs() returns setof int language sql stable security definer as
    'select org from org_member where who = session_user';
create function tenant() returns int language sql as $$ select nullif(current_setting('app.tenant', true), '')::int $$;
create policy members on place to reader using (org in (select org from org_member m where m.who = current_user));
create policy by_function on place to writer using (org in (select my_orgs()));
create policy of_tenant on place to stranger using (org = tenant());
create policy shown on place as restrictive to public
    using (kind is distinct from 'hidden' or current_setting('app.all', true) = 'on');
alter table place enable row level security;
create view near as select id, org, kind, v from place where org < 4;
create view near_barrier with (security_barrier) as select id, org, kind, v from place where kind <> 'hidden';
create view near_invoker with (security_invoker) as select id, org, kind, v from place;
create view over as select id, kind, v from near_barrier where id % 2 = 0;
create function leaks(int, text) returns boolean language plpgsql cost 0.0000001 as
    $$ begin raise notice 'row % %', $1, $2; return true; end $$;
create table old (id int primary key, org int generated always as (2) stored, v {v});
create table room (id int, org int not null, kind text, v {v}, primary key (id, org)) partition by list (org);
create table room_1 partition of room for values in (1);
create table room_2 partition of room for values in (2);
alter table room enable row level security;
create policy members on room to reader using (org in (select org from org_member m where m.who = current_user));
create policy all_rooms on room to writer using (true);
grant select on org_member to reader;
grant select on room, room_1, near, near_barrier, near_invoker, over to reader, writer, stranger;
grant select on place to reader, stranger;
grant select (id, org, kind, v), update (kind) on place to writer;
