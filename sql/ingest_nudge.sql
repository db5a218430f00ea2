-- An empty transaction with a commit record, so that all WAL before it is written and sent.
select pg_logical_emit_message(true, 'rektor', '')
