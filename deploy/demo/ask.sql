-- k-NN questions on table packages, asked by psql 18.
\pset footer off

select embedding as numpy from packages where name = 'numpy' \gset
select embedding as flask from packages where name = 'flask' \gset

-- packages like numpy
select name, round((1 - (embedding <=> $1))::numeric, 3) as similarity
from packages order by embedding <=> $1 limit 8 \bind :numpy \g

-- like flask, released this year and among the 2,000 most downloaded
select name, released, downloads
from packages where released >= '2026-01-01' and downloads <= 2000 order by embedding <=> $1 limit 8 \bind :flask \g

-- how it is answered
explain (costs off)
select name, released, downloads
from packages where released >= '2026-01-01' and downloads <= 2000 order by embedding <=> $1 limit 8 \bind :flask \g

-- a new row is found at once
begin;
insert into packages select 0, 'my-own-numpy', now(), 15001, embedding from packages where name = 'numpy';
commit;
select name from packages order by embedding <=> $1 limit 3 \bind :numpy \g
delete from packages where id = 0;

select index_name, phase, rows, applied_lsn, lag_bytes from rektor.stat_indexes;
