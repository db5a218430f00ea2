//! What the cases of `world` share: one table with one index on a server, followed by a write path of this process.
//! A case changes the world and then says what must come of it.

use crate::harness::{Database, Random, Server, Wire};
use crate::ingest::following::Following;

/// The servers that most cases run on: without and with pgvector, the oldest and the newest.
pub const SERVERS: [Server; 2] = [Server::Plain, Server::Pg18];

/// A followed database.
pub struct World<'a> {
    pub server: Server,
    #[allow(dead_code)]
    pub database: Database<'a>,
    pub wire: Wire,
    pub following: Following,
}

impl World<'static> {
    /// Table `t` of 50 rows with index `i`, which serves.
    pub fn of(server: Server) -> Self {
        Self::with(server, "")
    }

    /// The same; the statements run before the index is created. Without any table `t` they made, it is made here.
    pub fn with(server: Server, before: &str) -> Self {
        World::on(server.shared().database(), before)
    }
}

impl<'a> World<'a> {
    pub fn on(database: Database<'a>, before: &str) -> Self {
        let server = database.cluster.server;
        let mut wire = database.connect();
        let following = Following::start(&database);
        if before.is_empty() {
            wire.run(&format!("create table t {}", columns(server)));
        } else {
            wire.run(&before.replace("VECTOR", &server.vector_type(3)));
        }
        let mut world = Self {
            server,
            database,
            wire,
            following,
        };
        world.insert("t", 0, 50);
        world.create_index("i", "t");
        world.check();
        // Dead rows tell this index from one that was copied again.
        world.run("delete from t where id < 5");
        world.check();
        world
    }

    /// Rows `from`, `from + 1`, …
    pub fn insert(&mut self, table: &str, from: usize, rows: usize) {
        self.try_insert(table, from, rows).unwrap();
    }

    pub fn try_insert(&mut self, table: &str, from: usize, rows: usize) -> Result<(), String> {
        let sql = rows_of(self.server, table, from, rows);
        self.wire
            .try_rows(&sql)
            .map(drop)
            .map_err(|error| format!("{error:?}"))
    }

    pub fn create_index(&mut self, name: &str, table: &str) {
        self.wire.run(&format!(
            "select rektor.create_index('{name}', '{table}', 'v', 'vector_l2_ops', '{{price}}', '{{\"dimensions\": 3}}')"
        ));
    }

    /// Runs SQL in which `VECTOR` stands for the vector type and `‹1,2,3›` for a vector's literal.
    pub fn run(&mut self, sql: &str) {
        let sql = self.sql(sql);
        self.wire.run(&sql);
    }

    pub fn sql(&self, sql: &str) -> String {
        let (open, close) = if self.server.has_pgvector() {
            ("'[", "]'")
        } else {
            ("'{", "}'")
        };
        sql.replace("VECTOR", &self.server.vector_type(3))
            .replace('‹', open)
            .replace('›', close)
    }

    /// Whatever the view says is ready must be right at once.
    pub fn check(&mut self) {
        self.following.check(&mut self.wire, "i");
    }

    /// For what the stream does not tell: the index comes to hold the table's rows.
    pub fn comes_to_agree(&mut self) {
        self.following.comes_to_agree(&mut self.wire, "i");
    }

    /// The index follows what happens from now on.
    pub fn follows(&mut self) {
        self.comes_to_agree();
        let table = self
            .following
            .index("i")
            .expect("the index")
            .definition
            .table
            .to_string();
        let columns = self
            .following
            .index("i")
            .expect("the index")
            .definition
            .column
            .name
            .clone();
        let vector = self.sql("‹0.5,0.25,0.125›");
        let (table, column) = (table, columns);
        self.wire.run(&format!(
            "delete from {table} where id in (select id from {table} order by id limit 3);
             update {table} set {column} = {vector} where id in (select id from {table} order by id limit 3)"
        ));
        self.check();
    }

    pub fn wait_failed(&mut self, reason: &str) {
        self.following.wait_failed("i", reason);
    }

    pub fn wait_dropped(&mut self) {
        self.following.wait("the index to be dropped", |view| {
            view.indexes.is_empty().then_some(())
        });
    }

    /// Waits until the catalogue was read after everything that was done so far.
    pub fn settle(&mut self) {
        self.run("create table if not exists marker (id int primary key, v VECTOR, price int)");
        self.create_index("m", "marker");
        self.following
            .wait("the marker", |view| (view.indexes.len() > 1).then_some(()));
    }

    /// Whether the index is the one that was there at the beginning, and not another copy of its table.
    pub fn is_the_first_copy(&self) -> bool {
        let index = self.following.index("i").expect("the index");
        index
            .snapshot
            .as_ref()
            .is_some_and(|snapshot| snapshot.stats().dead >= 5)
    }

    pub fn value(&mut self, sql: &str) -> String {
        self.wire.value(sql)
    }
}

fn columns(server: Server) -> String {
    format!(
        "(a int, id int primary key, dropped int, v {}, price int, other text); alter table t drop dropped",
        server.vector_type(3)
    )
}

/// An INSERT of random rows.
pub fn rows_of(server: Server, table: &str, from: usize, rows: usize) -> String {
    let mut random = Random::new(from as u64 + 1);
    let values: Vec<String> = (from..from + rows)
        .map(|id| format!("({id}, '{}', {id})", random.vector(3, server)))
        .collect();
    format!(
        "insert into {table} (id, v, price) values {}",
        values.join(", ")
    )
}
