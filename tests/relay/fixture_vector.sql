create table embedded (id int primary key, embedding vector(3), half halfvec(3), bits bit(3), sparse sparsevec(5));
insert into embedded select n, array[n, n % 7, n % 3]::vector, array[n, 1, 2]::vector::halfvec, (n % 8)::bit(3), '{1:1,3:2}/5'
from generate_series(1, 100) n;
