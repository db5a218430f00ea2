-- How Rektor's own SQL sessions work. Everything is qualified, also expressions that the server prints. A
-- copy may take as long as it takes, whatever the role's settings are; but DDL that waits for one lock of ours, and for
-- which the next one waits, must not stand still. Our readings of the catalogue look expensive to the planner and are not:
-- compiling one takes a hundred times as long as running it (measured: 6.9 s against 66 ms), of the server's CPU.
select set_config(s.name, w.setting, false)
from pg_catalog.pg_settings s
join (values
    ('search_path', 'pg_catalog'),
    ('jit', 'off'),
    ('lock_timeout', '10s'),
    ('statement_timeout', '0'),
    ('transaction_timeout', '0'),
    ('idle_in_transaction_session_timeout', '0'),
    ('idle_session_timeout', '0')
) w (name, setting) on w.name = s.name
