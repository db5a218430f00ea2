-- Makes the golden files of this folder: psql -v vec=0|1 -v lit=… -v outb=… -v outt=… -f capture.sql on each server version.
-- vec=1 with pgvector; runs of a repeated byte were then written as (byte*count).
\set ON_ERROR_STOP 1
drop database if exists cap;
create database cap;
\c cap
\if :vec
create extension vector;
\else
create domain vector as real[];
\endif
create type mood as enum ('sad','ok');
create table items (id int primary key, tag text, v vector, m mood);
alter table items alter column tag set storage external;
create table ident (a int not null, b text, c text not null);
create unique index ident_c on ident(c);
alter table ident replica identity using index ident_c;
create table whole (id int primary key, t text);
alter table whole alter column t set storage external;
alter table whole replica identity full;
create publication p for table items, ident, whole;
select pg_create_logical_replication_slot('capbin','pgoutput');
select pg_create_logical_replication_slot('captxt','pgoutput');
begin;
insert into items values (1, 'a', :lit, 'ok'), (2, null, null, null);
commit;
insert into items values (3, repeat('x', 2100), :lit, 'sad');
update items set m = 'ok' where id = 3;
update items set id = 4 where id = 3;
update items set tag = 'b' where id = 1;
delete from items where id = 1;
insert into ident values (1, null, 'k');
update ident set a = 2;
update ident set c = 'l';
delete from ident;
insert into whole values (1, repeat('y', 2100));
update whole set id = 2;
delete from whole;
truncate items, whole restart identity cascade;
select pg_logical_emit_message(true, 'pre', 'content');
select pg_logical_emit_message(false, 'outside', '\x00ff'::bytea);
select pg_replication_origin_create('far');
select pg_replication_origin_session_setup('far');
begin;
select pg_replication_origin_xact_setup('0/ABCD', '2026-01-01');
insert into ident values (9, 'o', 'o');
commit;
select pg_replication_origin_session_reset();
alter table items alter column tag type varchar(4000), add column extra int default 3;
insert into items values (5, 'e', null, null, 4);
\t \a
\o :outb
select encode(data,'hex') from pg_logical_slot_get_binary_changes('capbin', null, null, 'proto_version','1','publication_names','p','binary','true','messages','true');
\o :outt
select encode(data,'hex') from pg_logical_slot_get_binary_changes('captxt', null, null, 'proto_version','1','publication_names','p','binary','false','messages','true');
\o
select pg_drop_replication_slot('capbin'), pg_drop_replication_slot('captxt'), pg_replication_origin_drop('far');
