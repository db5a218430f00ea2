//! A database with schema rektor → the same without slot, publication and schema, and a list of what went.
//! Ends nobody's connection: a slot in use is an error that names who uses it.

use tokio_postgres::Client;

use super::{AdminError, Connection, failed};

const TEARDOWN: &str = include_str!("../../sql/teardown.sql");
const FOUND: &str = include_str!("../../sql/teardown_found.sql");
const SLOT: &str = include_str!("../../sql/teardown_slot.sql");
const OTHER_SLOTS: &str = include_str!("../../sql/teardown_other_slots.sql");

/// Removes what `setup` installed and the slot of that name; says what was removed.
pub async fn run(database: &tokio_postgres::Config, slot: &str) -> Result<Vec<String>, AdminError> {
    let connection = Connection::open(database).await?;
    let client = &connection.client;
    let (ours, mut said) = find_slot(client, slot).await?;
    let found = client
        .query_one(FOUND, &[])
        .await
        .map_err(|e| failed("looking for schema rektor", &e))?;
    let script = format!("begin;\nset local client_min_messages = warning;\n{TEARDOWN}\ncommit;\n");
    client
        .batch_execute(&script)
        .await
        .map_err(|e| failed("removing schema rektor", &e))?;
    for (column, what) in [
        "publication rektor",
        "schema rektor",
        "the operators over real[]",
    ]
    .iter()
    .enumerate()
    {
        if found.get(column) {
            said.push(format!("removed {what}"));
        }
    }
    // Last, since it cannot be rolled back.
    if ours {
        client
            .execute("select pg_drop_replication_slot($1::text::name)", &[&slot])
            .await
            .map_err(|e| failed("dropping the replication slot", &e))?;
        said.push(format!("removed replication slot \"{slot}\""));
    }
    for row in client
        .query(OTHER_SLOTS, &[&slot])
        .await
        .map_err(|e| failed("looking for other slots", &e))?
    {
        let other: &str = row.get(0);
        said.push(format!("left replication slot \"{other}\": rektor teardown --slot {other} removes it, if it is Rektor's"));
    }
    connection.close().await;
    if said.is_empty() {
        said.push("nothing of Rektor's was there".to_owned());
    }
    Ok(said)
}

/// Whether the slot is there to be dropped, and what to say if one of that name is not ours.
async fn find_slot(client: &Client, slot: &str) -> Result<(bool, Vec<String>), AdminError> {
    let row = client
        .query_opt(SLOT, &[&slot])
        .await
        .map_err(|e| failed("looking for the replication slot", &e))?;
    let Some(row) = row else {
        return Ok((false, Vec::new()));
    };
    if !row.get::<_, bool>("ours") {
        return Ok((
            false,
            vec![format!(
                "left slot \"{slot}\": it is of another database or plugin"
            )],
        ));
    }
    if let Some(pid) = row.get::<_, Option<i32>>("active_pid") {
        return Err(AdminError::SlotInUse {
            slot: slot.to_owned(),
            pid,
            application: row
                .get::<_, Option<String>>("application_name")
                .unwrap_or_default(),
        });
    }
    Ok((true, Vec::new()))
}
