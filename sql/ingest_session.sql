-- How Rektor's own SQL sessions work. Everything is qualified, also expressions that the server prints. A
-- copy may take as long as it takes, whatever the role's settings are; but DDL that waits for one lock of ours, and for
-- which the next one waits, must not stand still.
select set_config(s.name, w.setting, false)
from pg_catalog.pg_settings s
join (values
    ('search_path', 'pg_catalog'),
    ('lock_timeout', '10s'),
    ('statement_timeout', '0'),
    ('transaction_timeout', '0'),
    ('idle_in_transaction_session_timeout', '0'),
    ('idle_session_timeout', '0')
) w (name, setting) on w.name = s.name
