-- Whether this role may have the server write a record of its running transactions (PostgreSQL 16 and newer).
select not pg_is_in_recovery()
    and coalesce(has_function_privilege(to_regprocedure('pg_log_standby_snapshot()'), 'execute'), false)
