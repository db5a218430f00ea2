-- Whether this role may open replication connections.
select r.rolname::text as role, r.rolsuper or r.rolreplication as may_replicate
from pg_roles r
where r.rolname = current_user
