-- What must be true of the server and the database before anything is replicated.
select
    current_setting('server_version_num')::int as version,
    current_setting('wal_level') as wal_level,
    to_regclass('rektor.index') is not null as installed,
    to_regprocedure('rektor.mend_columns()') is not null as current,
    exists (select from pg_publication where pubname = 'rektor') as published
