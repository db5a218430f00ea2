//! Every statement works: what is no k-NN search gives, through Rektor, the very frames that PostgreSQL gives.
//! The same statements run on two copies of one database, directly and through Rektor, and every frame is compared.

pub mod compare;
mod exchanges;
mod statements;
