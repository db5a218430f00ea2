-- The settings behind rektor.stat_*: $1 and $2 as JSON arrays of objects.
select pg_catalog.set_config('rektor.stat_indexes', $1, false), pg_catalog.set_config('rektor.stat_replication', $2, false)
