-- The setting behind rektor.verify_index: what was found, by the index's id.
select pg_catalog.set_config('rektor.verify_index', $1, false)
