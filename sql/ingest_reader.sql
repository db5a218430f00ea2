-- How the session works that reads rows by key: row security would leave rows out in silence, so it is an error; and no
-- commit of its own waits for a standby, which may be this Rektor.
set row_security = off;
set synchronous_commit = local
