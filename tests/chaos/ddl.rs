//! Changes of tables, partitions and indexes under the writers' feet. Each either happens whole, or is tried again.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::compare::Expected;
use super::tables::{Shape, Table, forgivable};
use crate::harness::{Database, Random, Wire};

/// Longest that a change may have to wait for the writers' locks and PostgreSQL's restarts.
const LIMIT: Duration = Duration::from_secs(240);
/// The second index, that comes and goes.
const SECOND: &str = "narrow_second";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ddl {
    Reindex(Table),
    /// Dropped and created again.
    Recreate(Table),
    /// Another index on a table that has one.
    Second,
    /// A column that no index uses comes and goes.
    Column(Table),
    /// A column of the index is called otherwise for a moment.
    Rename(Table),
    /// Every vector is another one, and the stream says nothing.
    Rewrite(Table),
    /// Other dimensions, and so another index.
    Resize(Table),
    Detach,
    TruncateLeaf,
    /// Of the whole partitioned table: the stream tells, and so do the leaves' files.
    Truncate,
    VacuumFull(Table),
    Cluster(Table),
    /// A copy finds its table locked.
    Locked(Table),
    /// A copy's slot has to wait for a transaction.
    OpenTransaction(Table),
}

impl Ddl {
    pub fn choose(dice: &mut Random) -> Self {
        let table = Table::ALL[dice.below(3)];
        match dice.below(17) {
            0..=2 => Self::Reindex(table),
            3 => Self::Recreate(table),
            4 => Self::Second,
            5 => Self::Column(table),
            6 => Self::Rename(table),
            7 => Self::Rewrite(table),
            8 => Self::Resize(table),
            9 => Self::Detach,
            10 => Self::TruncateLeaf,
            11 => Self::VacuumFull(table),
            12 if table != Table::Split => Self::Cluster(table),
            16 => Self::Truncate,
            13 | 14 => Self::OpenTransaction(table),
            _ => Self::Locked(table),
        }
    }

    /// Whether only reading the catalogue tells of it: until then index and table differ.
    pub fn is_silent(self) -> bool {
        match self {
            Self::Rename(_) | Self::Rewrite(_) | Self::Detach | Self::TruncateLeaf => true,
            Self::Reindex(_)
            | Self::Recreate(_)
            | Self::Second
            | Self::Column(_)
            | Self::Resize(_)
            | Self::Truncate
            | Self::VacuumFull(_)
            | Self::Cluster(_)
            | Self::Locked(_)
            | Self::OpenTransaction(_) => false,
        }
    }

    /// Whether doing it twice is as good as once: only then may PostgreSQL be stopped meanwhile.
    pub fn is_repeatable(self) -> bool {
        match self {
            Self::Reindex(_)
            | Self::Rewrite(_)
            | Self::TruncateLeaf
            | Self::Truncate
            | Self::VacuumFull(_) => true,
            Self::Recreate(_)
            | Self::Second
            | Self::Column(_)
            | Self::Rename(_)
            | Self::Resize(_)
            | Self::Detach
            | Self::Cluster(_)
            | Self::Locked(_)
            | Self::OpenTransaction(_) => false,
        }
    }

    /// Does it; `indexes` become what there should be.
    pub fn run(
        self,
        database: &Database<'_>,
        dice: &mut Random,
        shape: &Mutex<Shape>,
        indexes: &mut Vec<Expected>,
    ) {
        match self {
            Self::Reindex(table) => reindex(database, table),
            Self::Recreate(table) => {
                let name = index_name(table);
                once(database, &format!("select rektor.drop_index('{name}')"));
                let dimensions = shape.lock().unwrap().dimensions(table);
                once(database, &create(table, &name, table.class(), dimensions));
            }
            Self::Second => second(database, shape, indexes),
            Self::Column(table) => {
                let name = table.name();
                let extra = format!("extra_{}", dice.below(1_000_000_000));
                once(
                    database,
                    &format!("alter table {name} add column {extra} int default 7"),
                );
                once(database, &format!("alter table {name} drop column {extra}"));
            }
            Self::Rename(table) => {
                let name = table.name();
                let column = ["v", "tag"][dice.below(2)];
                once(
                    database,
                    &format!("alter table {name} rename column {column} to elsewhere"),
                );
                once(
                    database,
                    &format!("alter table {name} rename column elsewhere to {column}"),
                );
            }
            Self::Rewrite(table) => {
                let dimensions = shape.lock().unwrap().dimensions(table);
                once(database, &retype(database, table, dimensions, dice));
            }
            Self::Resize(table) => resize(database, table, dice, shape, indexes),
            Self::Detach => {
                once(database, "alter table split detach partition split_1");
                once(database, "delete from split_1 where id % 3 = 0");
                once(
                    database,
                    "alter table split attach partition split_1 for values in (1)",
                );
            }
            Self::TruncateLeaf => once(database, "truncate split_2"),
            Self::Truncate => once(database, "truncate split"),
            Self::VacuumFull(table) => once(database, &format!("vacuum full {}", table.name())),
            Self::Cluster(table) => {
                let name = table.name();
                once(database, &format!("cluster {name} using {name}_pkey"));
            }
            Self::Locked(table) => {
                let name = table.name();
                let held = format!(
                    "begin; lock table {name} in access exclusive mode; delete from {name} where v is null"
                );
                // it would wait for the lock itself
                reindex(database, table);
                hold(database, &held, dice, || {});
            }
            Self::OpenTransaction(table) => {
                let held = format!("begin; update {} set tag = 'held'", table.name());
                hold(database, &held, dice, || reindex(database, table));
            }
        }
    }
}

pub fn index_name(table: Table) -> String {
    format!("{}_idx", table.name())
}

/// SQL that creates an index, on a direct connection.
pub fn create(table: Table, name: &str, class: &str, dimensions: usize) -> String {
    let include = table.include().join(",");
    format!(
        "select rektor.create_index('{name}', '{}', 'v', '{class}', '{{{include}}}', '{{\"dimensions\": {dimensions}}}')",
        table.name()
    )
}

pub fn reindex(database: &Database<'_>, table: Table) {
    once(
        database,
        &format!("select rektor.reindex('{}')", index_name(table)),
    );
}

fn second(database: &Database<'_>, shape: &Mutex<Shape>, indexes: &mut Vec<Expected>) {
    if drop_second(database, indexes) {
        return;
    }
    let class = "vector_cosine_ops";
    let dimensions = shape.lock().unwrap().narrow;
    once(database, &create(Table::Narrow, SECOND, class, dimensions));
    indexes.push(Expected {
        name: SECOND.to_owned(),
        table: Table::Narrow,
        class,
    });
}

fn drop_second(database: &Database<'_>, indexes: &mut Vec<Expected>) -> bool {
    let before = indexes.len();
    indexes.retain(|index| index.name != SECOND);
    if indexes.len() == before {
        return false;
    }
    once(database, &format!("select rektor.drop_index('{SECOND}')"));
    true
}

/// SQL that gives every row another vector.
fn retype(database: &Database<'_>, table: Table, dimensions: usize, dice: &mut Random) -> String {
    let v = database.cluster.server.vector_type(dimensions);
    format!(
        "alter table {} alter v type {v} using array_fill((1 + hashtext(id::text) % {})::real, array[{dimensions}])::{v}",
        table.name(),
        1 + dice.below(1000)
    )
}

fn resize(
    database: &Database<'_>,
    table: Table,
    dice: &mut Random,
    shape: &Mutex<Shape>,
    indexes: &mut Vec<Expected>,
) {
    let dimensions = shape.lock().unwrap().dimensions(table);
    if !database.cluster.server.has_pgvector() {
        // an array takes vectors of any length, the writers' old ones too
        return once(database, &retype(database, table, dimensions, dice));
    }
    let wanted = match table {
        Table::Narrow => 5 + dice.below(60),
        Table::Wide => 500 + dice.below(60),
        Table::Split => 3 + dice.below(40),
    };
    if table == Table::Narrow {
        drop_second(database, indexes);
    }
    let name = index_name(table);
    let steps = [
        format!("select rektor.drop_index('{name}')"),
        retype(database, table, wanted, dice),
        create(table, &name, table.class(), wanted),
    ];
    if dice.below(2) == 0 {
        once(database, &steps.join(";"));
    } else {
        for step in steps {
            once(database, &step);
        }
    }
    shape.lock().unwrap().set_dimensions(table, wanted);
}

/// A transaction is open while an index on its table is copied.
fn hold(database: &Database<'_>, held: &str, dice: &mut Random, meanwhile: impl FnOnce()) {
    let deadline = Instant::now() + LIMIT;
    let mut wire = database.connect();
    while let Err(state) = wire.attempt(held).expect("a server that is up") {
        assert!(
            forgivable(&state) && Instant::now() < deadline,
            "{held}: {state}"
        );
        wire.attempt("rollback")
            .expect("a server that is up")
            .unwrap();
    }
    meanwhile();
    // how long is what the test is about: some copies begin before the end, some after
    std::thread::sleep(Duration::from_millis(
        u64::try_from(dice.below(250)).unwrap(),
    ));
    let _deadlock = wire.attempt("commit").expect("a server that is up");
}

/// Runs it until it succeeds.
fn once(database: &Database<'_>, sql: &str) {
    let deadline = Instant::now() + LIMIT;
    let parameters = [("user", "postgres"), ("database", &database.name[..])];
    let sql = format!("set lock_timeout = 2000; {sql}");
    loop {
        let reached = Wire::reach(database.cluster.port, &parameters, "");
        let why = match reached {
            Ok(Ok(mut wire)) => match attempt(&mut wire, &sql) {
                Ok(()) => return,
                Err(why) => why,
            },
            Ok(Err(refusal)) => format!("{refusal:?}"),
            Err(error) => error.to_string(),
        };
        assert!(Instant::now() < deadline, "{sql}: {why}");
        std::thread::sleep(Duration::from_millis(10)); // the poll's interval
    }
}

fn attempt(wire: &mut Wire, sql: &str) -> Result<(), String> {
    // VACUUM wants to be alone in its message
    for sql in sql.split_inclusive("2000;") {
        match wire.attempt(sql) {
            Ok(Ok(())) => {}
            Ok(Err(state)) if forgivable(&state) => return Err(state),
            Ok(Err(state)) => panic!("{sql}: {state}"),
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}
