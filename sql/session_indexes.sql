-- Whether one of these names is an index of Rektor's.
select exists (select from rektor.index where name = any ($1::name[]))
