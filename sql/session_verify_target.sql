-- The id of the index that is to be verified, if it may be.
select rektor.verify_target($1)
