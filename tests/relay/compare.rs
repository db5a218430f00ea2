//! Two sessions on two copies of a database, one direct and one through Rektor: the same bytes in, the same frames out.
//! Equal but for what cannot be: process ids, and the OIDs of objects that each copy created for itself.

use std::collections::HashMap;
use std::time::Duration;

use crate::harness::wire::exchange;
use crate::harness::{Database, Frame, Rektor, Server, Wire, message, wait_for};

/// The tables that the statements work on, in both copies.
const FIXTURE: &str = include_str!("fixture.sql");

/// A database twice, and Rektor in front of the second.
pub struct Copies {
    pub direct: Database<'static>,
    pub rektor: Rektor<'static>,
    /// OIDs from here on were given out after the copies were made.
    first_own_oid: u32,
}

impl Copies {
    /// The tables of the relay tests, twice.
    pub fn new(server: Server) -> Self {
        Self::of(server, |template| {
            let mut wire = template.connect();
            wire.run(FIXTURE);
            if server.has_pgvector() {
                wire.run(include_str!("fixture_vector.sql"));
            }
        })
    }

    /// What `fill` makes, twice.
    pub fn of(server: Server, fill: impl FnOnce(&Database<'_>)) -> Self {
        let template = server.shared().database();
        Rektor::setup(&template);
        fill(&template);
        let mut wire = template.connect();
        wire.run("analyze");
        let newest = "select greatest((select max(oid) from pg_class), (select max(oid) from pg_type))::text";
        let first_own_oid = wire.value(newest).parse::<u32>().unwrap() + 1;
        drop(wire);
        let mut outside = Wire::login(template.cluster.port, "postgres", "postgres");
        let connected = format!(
            "select count(*) from pg_stat_activity where datname = '{}'",
            template.name
        );
        wait_for(
            "the template's sessions to end",
            Duration::from_secs(20),
            || (outside.value(&connected) == "0").then_some(()),
        );
        let direct = template.copy();
        let rektor = Rektor::serve(&template.copy());
        Self {
            direct,
            rektor,
            first_own_oid,
        }
    }

    pub fn sessions(&self, parameters: &[(&str, &str)]) -> Pair {
        let connect = |port: u16, database: &str| {
            let all = [&[("user", "postgres"), ("database", database)], parameters].concat();
            Wire::connect(port, &all, "").unwrap()
        };
        Pair {
            direct: connect(self.direct.cluster.port, &self.direct.name),
            through: connect(self.rektor.port, &self.rektor.database.name),
            first_own_oid: self.first_own_oid,
        }
    }
}

/// A session of each.
pub struct Pair {
    pub direct: Wire,
    pub through: Wire,
    first_own_oid: u32,
}

impl Pair {
    /// Runs the exchange on both and compares all frames.
    pub fn compare(
        &mut self,
        label: &str,
        exchange: impl Fn(&mut Wire) -> Vec<Frame>,
    ) -> Vec<Frame> {
        let expected = exchange(&mut self.direct);
        let got = exchange(&mut self.through);
        let normal = |frames: &[Frame]| normalise(frames, self.first_own_oid);
        let (left, right) = (normal(&expected), normal(&got));
        let differs = left.iter().zip(&right).position(|(a, b)| a != b);
        let differs =
            differs.or((left.len() != right.len()).then_some(left.len().min(right.len())));
        if let Some(at) = differs {
            panic!(
                "{label}\nframe {at} of {} directly, {} through Rektor:\n  direct  {:?}\n  through {:?}\nbefore it: {:?}",
                left.len(),
                right.len(),
                left.get(at),
                right.get(at),
                &left[at.saturating_sub(3)..at]
            );
        }
        got
    }

    /// Sends these bytes on both, answers COPY with `copy_in`, and compares all frames up to the `ready`th ReadyForQuery.
    pub fn exchange(
        &mut self,
        label: &str,
        bytes: &[u8],
        ready: usize,
        copy_in: &[u8],
    ) -> Vec<Frame> {
        self.compare(label, |wire| exchange(wire, bytes, ready, copy_in))
    }

    /// A simple query on both.
    pub fn query(&mut self, sql: &str) -> Vec<Frame> {
        self.exchange(sql, &message::query(sql), 1, b"")
    }
}

/// The frames without what may differ.
fn normalise(frames: &[Frame], first_own_oid: u32) -> Vec<Frame> {
    let mut own = HashMap::new();
    let mut renumber = |bytes: &mut [u8]| {
        let oid = u32::from_be_bytes(bytes.try_into().unwrap());
        if oid >= first_own_oid {
            let number = u32::try_from(own.len()).unwrap();
            let number = *own.entry(oid).or_insert(number);
            bytes.copy_from_slice(&(u32::MAX - number).to_be_bytes());
        }
    };
    let mut frames = frames.to_vec();
    for frame in &mut frames {
        match frame.tag {
            b'K' | b'A' => frame.body[..4].fill(0),
            b't' => frame.body[2..].chunks_exact_mut(4).for_each(&mut renumber),
            b'T' => {
                let mut at = 2;
                while at < frame.body.len() {
                    at += frame.body[at..].iter().position(|&b| b == 0).unwrap() + 1;
                    renumber(&mut frame.body[at..at + 4]); // table
                    renumber(&mut frame.body[at + 6..at + 10]); // type
                    at += 18;
                }
            }
            _ => {}
        }
        if frame.tag == b'K' {
            frame.body.truncate(4);
        }
    }
    frames
}
