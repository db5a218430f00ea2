//! The server's identity, the slot and a position → a stream that continues exactly there, again after every failure; and the
//! catalogue, read whenever asked and now and then unasked. Never confirms anything before the server, its timeline and the
//! slot are those that the position belongs to.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_postgres::Config;

use crate::ingest::apply::{CatalogueRequest, Control, Item, Marks};
use crate::ingest::receive::{Ended, Queue, receive};
use crate::ingest::stopped;
use crate::lsn::Lsn;
use crate::upstream::backfill::while_telling;
use crate::upstream::catalogue::{IndexEntry, PUBLICATION, check_server, read_indexes};
use crate::upstream::sql::SqlSession;
use crate::upstream::walsender::{
    ReplicationConnection, ReplicationStream, SlotKind, SlotSnapshot, SystemIdentity,
};
use crate::upstream::{Disposition, UpstreamError, slot};

/// First pause before connecting again; doubled each time.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest pause: how long after its return a server may go unnoticed.
const PAUSE_MOST: Duration = Duration::from_secs(1);
/// SQLSTATE `undefined_object`: what a stream without its publication ends with.
const NO_PUBLICATION: &str = "42704";
/// SQLSTATEs `undefined_table` and `invalid_schema_name`: schema rektor was removed, and with it every index.
const NOT_INSTALLED: [&str; 2] = ["42P01", "3F000"];
/// How often the catalogue is read unasked, for what the stream does not tell.
const CATALOGUE_INTERVAL: Duration = Duration::from_secs(2);

/// What a position in the stream belongs to, and the position.
#[derive(Clone, Debug)]
struct Epoch {
    system_id: u64,
    timeline: u32,
    position: Lsn,
    /// The slot cannot be read any more, whatever its state says.
    unreadable: bool,
}

impl Epoch {
    /// Why the stream cannot be resumed at the position, if so.
    fn broken_by(
        &self,
        system: &SystemIdentity,
        state: Option<&slot::SlotState>,
    ) -> Option<String> {
        let Some(state) = state else {
            return Some("the replication slot is gone".into());
        };
        if self.system_id != system.system_id {
            Some("upstream is another cluster than before".into())
        } else if self.timeline != system.timeline {
            Some(format!(
                "upstream is on timeline {} instead of {}",
                system.timeline, self.timeline
            ))
        } else if self.unreadable {
            Some("the publication was dropped and made anew".into())
        } else if state.lost {
            Some("upstream removed WAL that the replication slot needs".into())
        } else if state.confirmed > self.position {
            Some("the replication slot was moved or recreated".into())
        } else if system.wal < self.position {
            Some("upstream went back in time".into())
        } else {
            None
        }
    }
}

/// Keeps the stream flowing.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) config: Config,
    pub(crate) slot: String,
    pub(crate) queue: Queue,
    pub(crate) marks: Arc<Marks>,
    pub(crate) controls: mpsc::Sender<Control>,
    pub(crate) applied: watch::Receiver<Lsn>,
    pub(crate) stop: watch::Receiver<bool>,
}

impl Follower {
    /// Follows until `stop`.
    ///
    /// # Errors
    /// With a failure that only a person can mend, as long as nothing has been streamed yet.
    pub(crate) async fn run(mut self) -> Result<(), UpstreamError> {
        let mut epoch: Option<Epoch> = None;
        let mut streamed = false;
        let mut stop = self.stop.clone();
        let mut pause = PAUSE_FIRST;
        loop {
            let opened = tokio::select! {
                biased;
                () = stopped(&mut stop) => return Ok(()),
                opened = self.open(&mut epoch) => opened,
            };
            let failure = match (opened, &mut epoch) {
                (Ok(stream), Some(current)) => {
                    (pause, streamed) = (PAUSE_FIRST, true);
                    self.tell(true, None).await;
                    let received = self.receive(stream, &mut current.position).await;
                    if *stop.borrow() {
                        return Ok(()); // the applier is gone already
                    }
                    self.queue.send(Item::Cut).await?;
                    match received {
                        Ok(Ended::Stopped) => return Ok(()),
                        Ok(Ended::Full) => {
                            let wait = "the stream waits for a copy to end".to_owned();
                            self.tell(false, Some(wait)).await;
                            tokio::select! {
                                biased;
                                () = stopped(&mut stop) => return Ok(()),
                                drained = self.queue.drained() => drained?,
                            }
                            continue;
                        }
                        Err(error) => {
                            if error.sqlstate() == Some(NO_PUBLICATION) {
                                // The slot sees the catalogue as it was: it never finds a publication that was made anew.
                                current.unreadable = true;
                            }
                            error
                        }
                    }
                }
                (Ok(_), None) => UpstreamError::Closed, // `open` sets it
                (Err(error), _) if !streamed && error.disposition() == Disposition::Fatal => {
                    return Err(error);
                }
                (Err(error), _) => error,
            };
            tracing::warn!(error = %failure, "the stream is interrupted");
            self.tell(false, Some(failure.to_string())).await;
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }

    async fn receive(
        &mut self,
        stream: ReplicationStream,
        position: &mut Lsn,
    ) -> Result<Ended, UpstreamError> {
        let (applied, stop) = (&mut self.applied, &mut self.stop);
        receive(stream, position, &self.queue, &self.marks, applied, stop).await
    }

    async fn tell(&self, streaming: bool, error: Option<String>) {
        // The applier is gone only when everything stops.
        let _stopping = self
            .controls
            .send(Control::Stream { streaming, error })
            .await;
    }

    /// Connects, checks everything, and resumes; or begins anew with a slot of this moment.
    async fn open(&self, epoch: &mut Option<Epoch>) -> Result<ReplicationStream, UpstreamError> {
        let mut replication = ReplicationConnection::connect(&self.config).await?;
        let session = SqlSession::connect(&self.config).await?;
        check_server(&session, &self.slot).await?;
        let mut system = replication.identify_system().await?;
        let state = slot::find(&session, &self.slot, &system.database).await?;
        if let Some(state) = &state {
            slot::require_free(&self.slot, state)?;
        }
        let broken = match epoch {
            Some(epoch) => epoch.broken_by(&system, state.as_ref()),
            None => Some("this is the first connection".to_owned()),
        };
        if let Some(reason) = broken {
            tracing::info!(
                slot = self.slot,
                "beginning with a new replication slot: {reason}"
            );
            if state.is_some() {
                replication.drop_slot(&self.slot).await?;
            }
            let creation =
                replication.create_slot(&self.slot, SlotKind::Permanent, SlotSnapshot::Nothing);
            let created = while_telling(creation, &session, &self.slot, |blockers| {
                tracing::warn!("the replication slot is {blockers}");
                let error = Some(format!(
                    "creating replication slot {}: {blockers}",
                    self.slot
                ));
                let told = self.controls.try_send(Control::Stream {
                    streaming: false,
                    error,
                });
                if told.is_err() {
                    tracing::debug!("the applier is busy");
                }
            });
            let position = created.await?.consistent_point;
            system.wal = system.wal.max(position);
            self.queue.send(Item::Begin(position)).await?;
            *epoch = Some(Epoch {
                system_id: system.system_id,
                timeline: system.timeline,
                position,
                unreadable: false,
            });
        }
        let Some(epoch) = epoch else {
            return Err(UpstreamError::Closed);
        };
        let stream = replication
            .start_replication(&self.slot, epoch.position, PUBLICATION)
            .await?;
        // Someone may have moved the slot between the look at it and the start; from now on no one can.
        let state = slot::find(&session, &self.slot, &system.database).await?;
        match epoch.broken_by(&system, state.as_ref()) {
            None => Ok(stream),
            Some(reason) => Err(UpstreamError::Changed(reason)),
        }
    }
}

/// Reads the catalogue for the applier until `stop`.
pub(crate) async fn watch_catalogue(
    config: Config,
    controls: mpsc::Sender<Control>,
    mut requests: watch::Receiver<CatalogueRequest>,
    mut stop: watch::Receiver<bool>,
) {
    let mut session = None;
    loop {
        let request = requests.borrow_and_update().clone();
        let read = tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            read = read(&config, &mut session, &request.xids) => read,
        };
        let failed = read.is_err();
        match read {
            Ok(entries) => {
                let request = request.number;
                if controls
                    .send(Control::Catalogue { request, entries })
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the catalogue cannot be read");
                session = None;
                let gone = error
                    .sqlstate()
                    .is_some_and(|state| NOT_INSTALLED.contains(&state));
                let none = Control::Catalogue {
                    request: 0,
                    entries: Vec::new(),
                };
                if gone && controls.send(none).await.is_err() {
                    return;
                }
                let text = format!("the catalogue cannot be read: {error}");
                if controls.send(Control::CatalogueFailed(text)).await.is_err() {
                    return;
                }
            }
        }
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            changed = requests.changed(), if !failed => if changed.is_err() { return },
            () = tokio::time::sleep(if failed { PAUSE_FIRST * 5 } else { CATALOGUE_INTERVAL }) => {}
        }
    }
}

async fn read(
    config: &Config,
    session: &mut Option<SqlSession>,
    xids: &[u32],
) -> Result<Vec<IndexEntry>, UpstreamError> {
    let session = match session {
        Some(session) => session,
        None => session.insert(SqlSession::connect(config).await?),
    };
    read_indexes(session, xids).await
}
