//! ad hoc
use rektor::catalog::{KeyType, RowKey};
use rektor::index::view::{Phase, View};
use rektor::ingest::{IngestSettings, start};
use rektor::lsn::Lsn;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_postgres::{Client, NoTls};

struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

async fn connect(url: &str) -> Client {
    for _ in 0..400 {
        if let Ok((c, conn)) = tokio_postgres::connect(url, NoTls).await {
            tokio::spawn(async move {
                let _ = conn.await;
            });
            return c;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no connection");
}

fn vec_text(rng: &mut Rng, dim: usize, real: bool) -> String {
    let body: Vec<String> = (0..dim)
        .map(|_| format!("{}", (rng.below(2000) as f32 - 1000.0) / 8.0))
        .collect();
    if real {
        format!("'{{{}}}'", body.join(","))
    } else {
        format!("'[{}]'", body.join(","))
    }
}

fn key_text(def: &rektor::catalog::IndexDefinition, key: &[u8]) -> String {
    RowKey::parts(key)
        .zip(&def.key)
        .map(|(p, k)| match k.kind {
            KeyType::Int2 => i16::from_be_bytes(p.try_into().unwrap()).to_string(),
            KeyType::Int4 => i32::from_be_bytes(p.try_into().unwrap()).to_string(),
            KeyType::Int8 => i64::from_be_bytes(p.try_into().unwrap()).to_string(),
            KeyType::Uuid => p.iter().map(|b| format!("{b:02x}")).collect(),
            KeyType::Text | KeyType::Varchar => String::from_utf8(p.to_vec()).unwrap(),
        })
        .collect::<Vec<_>>()
        .join("|")
}

/// key -> (vector bytes hash text, includes)
async fn compare(c: &Client, view: &View, what: &str) -> usize {
    let mut n = 0;
    for ix in &view.indexes {
        let d = &ix.definition;
        assert!(
            matches!(ix.phase, Phase::Ready),
            "{what} {} {:?}",
            d.name,
            ix.phase
        );
        let s = ix.snapshot.as_ref().unwrap();
        let mut found = BTreeMap::new();
        for row in s.rows() {
            let v: Vec<u32> = s.vector(row).unwrap().iter().map(|f| f.to_bits()).collect();
            let inc: Vec<Option<Vec<u8>>> = (0..d.include.len())
                .map(|i| s.include(row, i).map(<[u8]>::to_vec))
                .collect();
            assert!(
                found
                    .insert(key_text(d, s.key(row).unwrap()), (v, inc))
                    .is_none(),
                "double key"
            );
        }
        let keys: Vec<String> = d
            .key
            .iter()
            .map(|k| {
                if k.kind == KeyType::Uuid {
                    format!("replace({}::text,'-','')", k.name)
                } else {
                    format!("{}::text", k.name)
                }
            })
            .collect();
        let incs: Vec<String> = d
            .include
            .iter()
            .map(|i| {
                let f = if i.type_id.0 == 25 {
                    "textsend"
                } else {
                    "int4send"
                };
                format!(", {f}({})", i.name)
            })
            .collect();
        let sql = format!(
            "select concat_ws('|',{}), {}::real[]{} from {} where {} is not null",
            keys.join(","),
            d.column.name,
            incs.concat(),
            d.table,
            d.column.name
        );
        let mut expected = BTreeMap::new();
        for row in c.query(&sql, &[]).await.unwrap() {
            let v: Vec<f32> = row.get(1);
            if v.len() != d.dim.get()
                || (d.metric == rektor::vector::Metric::Cosine && v.iter().all(|x| *x == 0.0))
            {
                continue;
            }
            let inc: Vec<Option<Vec<u8>>> = (0..d.include.len()).map(|i| row.get(2 + i)).collect();
            expected.insert(
                row.get::<_, String>(0),
                (v.iter().map(|f| f.to_bits()).collect::<Vec<_>>(), inc),
            );
        }
        if found != expected {
            let missing: Vec<_> = expected
                .keys()
                .filter(|k| !found.contains_key(*k))
                .take(5)
                .collect();
            let extra: Vec<_> = found
                .keys()
                .filter(|k| !expected.contains_key(*k))
                .take(5)
                .collect();
            let differ: Vec<_> = expected
                .iter()
                .filter(|(k, v)| found.get(*k).is_some_and(|f| f != *v))
                .map(|(k, _)| k)
                .take(5)
                .collect();
            panic!(
                "{what}: {} differs: {} found {} expected; missing {missing:?} extra {extra:?} differ {differ:?} applied {}",
                d.name,
                found.len(),
                expected.len(),
                ix.applied
            );
        }
        n += found.len();
    }
    n
}

async fn settle(c: &Client, view: &mut watch::Receiver<Arc<View>>, want: usize) -> Arc<View> {
    let lsn: String = c
        .query_one("select pg_current_wal_insert_lsn()::text", &[])
        .await
        .unwrap()
        .get(0);
    let lsn: Lsn = lsn.parse().unwrap();
    let ready = |v: &Arc<View>| {
        v.indexes.len() == want
            && v.indexes
                .iter()
                .all(|i| i.phase == Phase::Ready && i.applied >= lsn)
    };
    let r = tokio::time::timeout(Duration::from_secs(60), view.wait_for(ready))
        .await
        .map(|v| v.unwrap().clone());
    match r {
        Ok(v) => v,
        Err(_) => {
            let v = view.borrow();
            panic!(
                "not settled at {lsn}: {:?} {:?} {:?}",
                v.streaming,
                v.error,
                v.indexes
                    .iter()
                    .map(|i| (i.definition.name.to_string(), i.phase.clone(), i.applied))
                    .collect::<Vec<_>>()
            )
        }
    }
}

async fn op(c: &mut Client, rng: &mut Rng, real: bool) {
    let t = ["items", "comp", "uu", "big"][rng.below(4) as usize];
    let dim = if t == "big" { 900 } else { 3 };
    let r = rng.below(60);
    let k = |rng: &mut Rng| match t {
        "items" | "big" => format!("{}", rng.below(300)),
        "comp" => format!("{}, 'k{}'", rng.below(10), rng.below(20)),
        _ => format!("'00000000-0000-0000-0000-{:012}'::uuid", rng.below(200)),
    };
    let cols = match t {
        "comp" => "a, b",
        _ => "id",
    };
    let wher = |k: &str| match t {
        "comp" => format!("(a, b) = ({k})"),
        _ => format!("id = {k}"),
    };
    let v = |rng: &mut Rng| match rng.below(12) {
        0 => "null".into(),
        1 if real => vec_text(rng, 2, real),
        2 if dim == 3 => vec_text(rng, 3, real).replace(|c: char| c.is_ascii_digit(), "0"),
        _ => vec_text(rng, dim, real),
    };
    let tag = |rng: &mut Rng| match rng.below(5) {
        0 => "null".to_string(),
        1 => {
            let s: String = (0..3000)
                .map(|_| char::from(b'a' + rng.below(26) as u8))
                .collect();
            format!("'{s}'")
        }
        _ => format!("'t{}'", rng.below(100)),
    };
    let one = |rng: &mut Rng| -> String {
        let key = k(rng);
        match rng.below(10) {
            0..=3 => format!(
                "insert into {t}({cols}, v, price, tag) values ({key}, {}, {}, {}) on conflict ({cols}) do update set v = excluded.v, price = excluded.price;",
                v(rng),
                rng.below(100),
                tag(rng)
            ),
            4 => format!("update {t} set v = {} where {};", v(rng), wher(&key)),
            5 => format!("update {t} set price = price + 1 where {};", wher(&key)),
            6 => format!("update {t} set tag = {} where {};", tag(rng), wher(&key)),
            7 => format!("delete from {t} where {};", wher(&key)),
            8 => {
                let to = k(rng);
                let set = if t == "comp" {
                    format!("(a, b) = ({to})")
                } else {
                    format!("id = {to}")
                };
                format!(
                    "delete from {t} where {}; update {t} set {set} where {};",
                    wher(&to),
                    wher(&key)
                )
            }
            _ => format!(
                "insert into {t}({cols}, v, price, tag) values ({key}, {}, {}, {}) on conflict do nothing;",
                v(rng),
                rng.below(100),
                tag(rng)
            ),
        }
    };
    let sql = match r {
        0 if rng.below(4) == 0 => format!("truncate {t};"),
        1 => format!("begin; truncate {t}; {} {} commit;", one(rng), one(rng)),
        2..=6 => {
            let n = rng.below(12);
            let b: String = (0..n).map(|_| one(rng)).collect();
            format!("begin; {b} commit;")
        }
        7..=8 => format!("begin; {} {} rollback;", one(rng), one(rng)),
        9 => format!(
            "begin; {} savepoint s; {} rollback to s; {} commit;",
            one(rng),
            one(rng),
            one(rng)
        ),
        _ => one(rng),
    };
    if let Err(e) = c.batch_execute(&sql).await {
        if e.is_closed() || e.as_db_error().is_none() {
            return;
        }
        let code = e.as_db_error().unwrap().code().code().to_owned();
        let _ = c.batch_execute("rollback").await;
        assert!(
            code == "40P01" || code.starts_with("57"),
            "{e:?} {sql:.300}"
        );
    }
}

async fn setup(c: &Client, real: bool) {
    let ty = |d: usize| {
        if real {
            "real[]".to_string()
        } else {
            format!("vector({d})")
        }
    };
    c.batch_execute(&format!("
drop publication if exists rektor; drop schema if exists rektor cascade; drop table if exists items, comp, uu, big;
create schema rektor;
create table rektor.index (id bigint generated always as identity primary key, name name not null, relation regclass not null, column_name name not null, metric text not null, dimensions int not null, include name[] not null default '{{}}', options jsonb not null default '{{}}', reindexed bigint not null default 0, created_at timestamptz not null default now());
create publication rektor for table rektor.index with (publish_via_partition_root = true);
create table items(id bigint primary key, v {}, price int, tag text);
create table comp(a int, price int, tag text, v {}, b text, primary key(b, a));
create table uu(tag text, id uuid primary key, price int, v {});
create table big(id int primary key, v {}, price int, tag text);
alter table uu alter v set storage external;
", ty(3), ty(3), ty(3), ty(900))).await.unwrap();
    c.batch_execute(if real {
        "alter table big alter v set storage external"
    } else {
        "select"
    })
    .await
    .unwrap();
}

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt()
        .with_env_filter(std::env::var("RUST_LOG").unwrap_or("info".into()))
        .with_writer(std::io::stderr)
        .init();
    let args: Vec<String> = std::env::args().collect();
    let url = args[1].clone();
    let real = args[2] == "real";
    let ops: u64 = args[3].parse().unwrap();
    let mut rng = Rng(args[4].parse::<u64>().unwrap() * 7919 + 1);
    let restart = args.get(5).cloned();
    let mut c = connect(&url).await;
    setup(&c, real).await;
    for _ in 0..200 {
        op(&mut c, &mut rng, real).await;
    }
    let (stop, shutdown) = watch::channel(false);
    let settings = IngestSettings {
        upstream: url.parse().unwrap(),
        data_dir: "/tmp/ingest-x".into(),
        slot: "rektor_trial".into(),
    };
    let t = Instant::now();
    let mut ingest = start(settings.clone(), shutdown.clone()).await.unwrap();
    let add = |t: &str, m: &str, d: u32, inc: &str, o: &str| {
        format!(
            "with x as (insert into rektor.index(name, relation, column_name, metric, dimensions, include, options) values ('{t}_{m}', '{t}', 'v', '{m}', {d}, '{{{inc}}}', '{o}') returning 1) select 1 from x;"
        )
    };
    c.batch_execute("alter publication rektor add table items, big, comp, uu")
        .await
        .unwrap();
    c.batch_execute(&add("items", "l2", 3, "price,tag", "{}"))
        .await
        .unwrap();
    c.batch_execute(&add("big", "l2", 900, "tag,price", "{}"))
        .await
        .unwrap();
    for _ in 0..50 {
        op(&mut c, &mut rng, real).await;
    }
    c.batch_execute(&add("comp", "ip", 3, "tag", "{}"))
        .await
        .unwrap();
    c.batch_execute(&add("uu", "cosine", 3, "", "{}"))
        .await
        .unwrap();
    c.batch_execute(&add("items", "cosine", 3, "", r#"{"method":"flat"}"#))
        .await
        .unwrap();
    for _ in 0..50 {
        op(&mut c, &mut rng, real).await;
    }
    let view = settle(&c, &mut ingest.view, 5).await;
    println!(
        "ready after {:?}: {} rows",
        t.elapsed(),
        compare(&c, &view, "start").await
    );
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        let t = Instant::now();
        for i in 0..ops / 20 {
            if c.is_closed() {
                c = connect(&url).await;
            }
            op(&mut c, &mut rng, real).await;
            if i == ops / 40 && round % 5 == 2 {
                if let Some(cmd) = &restart {
                    let cmd = cmd.clone();
                    if cmd == "self" {
                        stop.send_replace(true);
                        let t = Instant::now();
                        ingest.task.await.unwrap().unwrap();
                        println!("stopped in {:?}", t.elapsed());
                        stop.send_replace(false);
                        ingest = start(settings.clone(), shutdown.clone()).await.unwrap();
                    } else {
                        let t = Instant::now();
                        let st = tokio::task::spawn_blocking(move || {
                            std::process::Command::new("bash")
                                .arg("-c")
                                .arg(cmd)
                                .status()
                        })
                        .await
                        .unwrap()
                        .unwrap();
                        println!("restarted upstream {st:?} in {:?}", t.elapsed());
                    }
                }
            }
            if i == ops / 40 && round % 4 == 1 {
                c.batch_execute(
                    "update rektor.index set reindexed = reindexed + 1 where name = 'items_l2'",
                )
                .await
                .ok();
            }
            if i == ops / 40 && round % 7 == 3 {
                c.batch_execute("alter table comp rename price to price2; alter table comp rename price2 to price;").await.ok();
            }
        }
        if c.is_closed() {
            c = connect(&url).await;
        }
        let w = t.elapsed();
        let t = Instant::now();
        let view = settle(&c, &mut ingest.view, 5).await;
        slowest = slowest.max(t.elapsed());
        println!(
            "round {round} ops {w:?} settle {:?} rows {}",
            t.elapsed(),
            compare(&c, &view, &format!("round {round}")).await
        );
    }
    stop.send_replace(true);
    let t = Instant::now();
    ingest.task.await.unwrap().unwrap();
    println!(
        "OK; stopped in {:?}; slowest settle {slowest:?}",
        t.elapsed()
    );
    let _ = view;
}
