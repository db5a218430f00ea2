-- Tables that break their own writes leave the publication, and come back; a line each.
select done from rektor.mend_publication() as m (done)
