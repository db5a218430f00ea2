//! A copy's rows received, decoded and thrown away, in this process: what backfill costs without an index.
//! `capture URL TABLE COLUMN…` prints rows and seconds of one session; `benches/capture.py` sets them beside plain COPY.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::time::Instant;

use rektor::catalog::{ColumnNumber, QualifiedName, RelationId};
use rektor::upstream::backfill::{Backfill, TableCopy};
use rektor::upstream::sql::SqlSession;
use tokio::sync::mpsc;

/// As the product's own copies: batches of about 1 MiB at most.
const BATCHES: usize = 8;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let [url, table, columns @ ..] = &arguments[..] else {
        println!("usage: capture URL TABLE COLUMN…");
        return;
    };
    let config: tokio_postgres::Config = url.parse().unwrap();
    let session = SqlSession::connect(&config).await.unwrap();
    let relation = session
        .client()
        .query_one("select ('public.' || $1::text)::regclass::oid", &[table])
        .await
        .unwrap()
        .get(0);
    let copy = [TableCopy {
        relation: RelationId(relation),
        name: QualifiedName {
            schema: "public".to_owned(),
            name: table.clone(),
        },
        columns: columns.to_vec(),
        numbers: (1..).map(ColumnNumber).take(columns.len()).collect(),
        row_filter: None,
    }];
    let backfill = Backfill::open(&config, "capture_bench", &copy, 1, |_| {});
    let backfill = backfill.await.unwrap();
    let (send, mut receive) = mpsc::channel(BATCHES);
    let started = Instant::now();
    let reading = tokio::spawn(backfill.run(send));
    let mut rows = 0;
    while let Some(batch) = receive.recv().await {
        rows += batch.rows.len();
    }
    reading.await.unwrap().unwrap();
    println!("{rows} {}", started.elapsed().as_secs_f64());
}
