-- Indexes follow their columns' names, and go with their columns; a line each.
select done from rektor.mend_columns() as m (done)
