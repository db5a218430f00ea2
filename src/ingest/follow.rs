//! What is stored, the server's identity and the slot → a stream that continues exactly where the journal ends, again after
//! every failure. Never confirms anything before the server, its timeline and the slot are those that the position belongs to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_postgres::Config;

use crate::index::Memory;
use crate::ingest::apply::{Control, Item};
use crate::ingest::budget::{Budget, GivenUp};
use crate::ingest::history::{contradiction, journalled};
use crate::ingest::marks::Marks;
use crate::ingest::queue::Queue;
use crate::ingest::receive::{Ended, receive};
use crate::ingest::restore::{blocking, load};
use crate::ingest::{IngestError, stopped};
use crate::lsn::Lsn;
use crate::store::{
    Directory, Journal, JournalReader, Origin, RecoveredJournal, StoreError, Trimmer,
};
use crate::upstream::backfill::while_telling;
use crate::upstream::catalogue::{PUBLICATION, check_server, read_indexes};
use crate::upstream::sql::SqlSession;
use crate::upstream::walsender::{
    ReplicationConnection, ReplicationStream, SlotKind, SlotSnapshot, SystemIdentity,
};
use crate::upstream::{Disposition, UpstreamError, slot};

/// First pause before connecting again; doubled each time.
pub(super) const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest pause: how long after its return a server may go unnoticed.
const PAUSE_MOST: Duration = Duration::from_secs(1);
/// Pause after a failure to store: what was stored must be read again each time.
const PAUSE_STORE: Duration = Duration::from_secs(5);
/// SQLSTATE `undefined_object`: what a stream without its publication ends with.
const NO_PUBLICATION: &str = "42704";
/// That, and `undefined_function`: a value came that has no binary form. (Its table is taken out of the publication.)
const UNREADABLE: [&str; 2] = [NO_PUBLICATION, "42883"];

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
            Some("the slot cannot be read any more: the publication was made anew, or had a table that cannot be sent".into())
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
    pub(crate) directory: Arc<Directory>,
    /// What all indexes share.
    pub(crate) memory: Arc<Memory>,
    /// How much WAL may be kept for the slot.
    pub(crate) budget: Budget,
    /// The process of the newest replication connection.
    pub(crate) walsender: Option<i32>,
    /// Running while a stream is, and between streams.
    pub(crate) journal: Option<Journal>,
    /// The same, for whoever trims it.
    pub(crate) trimmer: watch::Sender<Option<Trimmer>>,
    /// The same, for whoever reads it.
    pub(crate) reader: watch::Sender<Option<JournalReader>>,
    /// The applier has what is stored, or has begun anew.
    pub(crate) restored: bool,
    /// The newest epoch of this process: what another has left in memory must not pass for its own.
    pub(crate) epochs: u64,
    pub(crate) stop: watch::Receiver<bool>,
}

impl Follower {
    /// Follows until `stop`.
    ///
    /// # Errors
    /// With a failure that only a person can mend, as long as nothing has been streamed yet.
    pub(crate) async fn run(mut self) -> Result<(), IngestError> {
        let mut followed = self.follow().await;
        if *self.stop.borrow() {
            followed = Ok(()); // the applier may have stopped first
        }
        let closed = self.close_journal().await;
        followed.and(closed.map_err(IngestError::from))
    }

    async fn follow(&mut self) -> Result<(), IngestError> {
        let mut epoch: Option<Epoch> = None;
        let mut streamed = false;
        let mut stop = self.stop.clone();
        let mut pause = PAUSE_FIRST;
        let (mut budget, mut given_up) = (self.budget.clone(), GivenUp::default());
        loop {
            let opened = tokio::select! {
                biased;
                () = stopped(&mut stop) => return Ok(()),
                excess = budget.exceeded() => Err(excess),
                opened = self.open(&mut epoch) => opened,
            };
            let failure = match (opened, &mut epoch) {
                (Ok(stream), Some(current)) => {
                    (pause, streamed) = (PAUSE_FIRST, true);
                    self.tell(true, None).await;
                    let begun = Instant::now();
                    let received = tokio::select! {
                        biased;
                        excess = budget.exceeded() => Err(excess),
                        received = self.receive(stream, &mut current.position) => received.map_err(Into::into),
                    };
                    given_up.streamed(begun.elapsed());
                    if *stop.borrow() {
                        return Ok(()); // the applier is gone already
                    }
                    if let Some(journal) = &self.journal {
                        // If it has failed, the next look at it tells.
                        let _failed = journal.abandon().await;
                    }
                    match received {
                        Ok(Ended::Stopped) => return Ok(()),
                        Ok(Ended::JournalFailed) => {
                            let failed = self.close_journal().await;
                            failed.err().unwrap_or(StoreError::Stopped).into()
                        }
                        Err(error) => {
                            if let IngestError::Upstream(error) = &error
                                && UNREADABLE.map(Some).contains(&error.sqlstate())
                            {
                                // The slot sees the catalogue as it was: it never finds a publication that was made anew,
                                // and always a table that has left it.
                                current.unreadable = true;
                            }
                            error
                        }
                    }
                }
                (Ok(_), None) => UpstreamError::Closed.into(), // `open` sets it
                (Err(error), _) if !streamed && error.disposition() == Disposition::Fatal => {
                    return Err(error);
                }
                (Err(error), _) => error,
            };
            tracing::warn!(error = %failure, "the stream is interrupted");
            self.tell(false, Some(failure.to_string())).await;
            if let IngestError::Budget { .. } = failure {
                self.give_up(&failure, &mut given_up).await;
                epoch = None;
                continue;
            }
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return Ok(()),
                () = tokio::time::sleep(match failure {
                    IngestError::Store(_) => PAUSE_STORE,
                    IngestError::Upstream(_) | IngestError::Panicked(_) | IngestError::Budget { .. } => pause,
                }) => {}
            }
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }

    async fn receive(
        &mut self,
        stream: ReplicationStream,
        position: &mut Lsn,
    ) -> Result<Ended, UpstreamError> {
        let Some(journal) = &self.journal else {
            return Ok(Ended::JournalFailed); // `open` starts it
        };
        let (applied, stop) = (&mut self.applied, &mut self.stop);
        let (queue, marks) = (&mut self.queue, &self.marks);
        receive(stream, position, queue, journal, marks, applied, stop).await
    }

    pub(super) async fn close_journal(&mut self) -> Result<(), StoreError> {
        self.trimmer.send_replace(None);
        self.reader.send_replace(None);
        match self.journal.take() {
            Some(journal) => journal.close().await,
            None => Ok(()),
        }
    }

    fn start_journal(&mut self, journal: RecoveredJournal, start: Lsn) -> Result<(), StoreError> {
        let journal = journal.start(start)?;
        self.trimmer.send_replace(Some(journal.trimmer()));
        self.reader.send_replace(Some(journal.reader()));
        self.journal = Some(journal);
        Ok(())
    }

    pub(super) async fn tell(&self, streaming: bool, error: Option<String>) {
        // The applier is gone only when everything stops.
        let _stopping = self
            .controls
            .send(Control::Stream { streaming, error })
            .await;
    }

    /// Connects, checks everything, and resumes; or begins anew with a slot of this moment.
    async fn open(&mut self, epoch: &mut Option<Epoch>) -> Result<ReplicationStream, IngestError> {
        let mut replication = ReplicationConnection::connect(&self.config).await?;
        self.walsender = Some(replication.process().await?);
        let session = SqlSession::connect(&self.config).await?;
        check_server(&session).await?;
        let system = replication.identify_system().await?;
        let state = slot::find(&session, &self.slot, &system.database).await?;
        if let Some(state) = &state {
            slot::require_free(&self.slot, state)?;
        }
        let mut recovered = None;
        if self.journal.is_none() {
            recovered = self.stored(&system).await?;
            // The journal's end, also after a failure of the journal: the applier skips what it has.
            *epoch = recovered.as_ref().map(|(stored, _)| Epoch {
                unreadable: epoch.as_ref().is_some_and(|epoch| epoch.unreadable),
                ..stored.clone()
            });
        }
        if let (Some((_, journal)), Some(state)) = (&recovered, &state) {
            let (since, seen) = journalled(journal, state.confirmed).await?;
            self.marks.history().begin(since, seen);
        }
        let broken = match epoch {
            Some(epoch) => match epoch.broken_by(&system, state.as_ref()) {
                None => self.contradicted(&session, epoch, state.as_ref()).await?,
                broken => broken,
            },
            None => Some("nothing of this slot's stream is stored".to_owned()),
        };
        if let Some(reason) = broken {
            tracing::info!(
                slot = self.slot,
                "beginning with a new replication slot: {reason}"
            );
            if state.is_some() {
                replication.drop_slot(&self.slot).await?;
            }
            let position = self.begin(&mut replication, &session, &system).await?;
            *epoch = Some(Epoch {
                system_id: system.system_id,
                timeline: system.timeline,
                position,
                unreadable: false,
            });
        } else if let Some((stored, journal)) = recovered {
            if !self.restored {
                self.restore(&session, &journal).await?;
            }
            self.start_journal(journal, stored.position)?;
        }
        let Some(epoch) = epoch else {
            return Err(UpstreamError::Closed.into());
        };
        let stream = replication
            .start_replication(&self.slot, epoch.position, PUBLICATION)
            .await?;
        // Someone may have moved the slot between the look at it and the start; from now on no one can.
        let state = slot::find(&session, &self.slot, &system.database).await?;
        let system = SystemIdentity {
            wal: system.wal.max(epoch.position), // it may have moved on to the new slot's position since
            ..system
        };
        match epoch.broken_by(&system, state.as_ref()) {
            None => Ok(stream),
            Some(reason) => Err(UpstreamError::Changed(reason).into()),
        }
    }

    /// Why upstream's past is not the one that was followed, if so.
    async fn contradicted(
        &self,
        session: &SqlSession,
        epoch: &Epoch,
        state: Option<&slot::SlotState>,
    ) -> Result<Option<String>, UpstreamError> {
        let Some(state) = state else {
            return Ok(None); // said already
        };
        let (slot, marks) = (&self.slot, &self.marks);
        let compared = contradiction(session, slot, marks, state.confirmed, epoch.position).await;
        match compared {
            Err(error) if UNREADABLE.map(Some).contains(&error.sqlstate()) => {
                Ok(Some(format!("the slot cannot be read any more: {error}")))
            }
            compared => compared,
        }
    }

    /// What is stored of this slot's stream, checked; `None` if nothing is, or it is damaged.
    async fn stored(
        &self,
        system: &SystemIdentity,
    ) -> Result<Option<(Epoch, RecoveredJournal)>, IngestError> {
        let Some(origin) = self.directory.origin() else {
            return Ok(None);
        };
        if !self.restored {
            require_same_cluster(&self.directory, system)?;
        } else {
            // The journal has failed: while nothing can be written, all of it is not read again and again.
            blocking(&self.directory, Directory::probe).await??;
        }
        if origin.slot != self.slot {
            tracing::warn!(
                "the data directory was slot {}'s: if no other Rektor uses that, drop it, since it holds WAL: select pg_drop_replication_slot('{}')",
                origin.slot,
                origin.slot.replace('\'', "''")
            );
            return Ok(None);
        }
        let journal = match blocking(&self.directory, Directory::journal).await? {
            Ok(journal) => journal,
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::error!(%error, "what is stored cannot be continued: everything is copied again");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        Ok(journal.range().map(|(_, end)| {
            let epoch = Epoch {
                system_id: origin.system_id,
                timeline: origin.timeline,
                position: end,
                unreadable: false,
            };
            (epoch, journal)
        }))
    }

    /// Forgets what is stored, and begins with a new slot; its position.
    async fn begin(
        &mut self,
        replication: &mut ReplicationConnection,
        session: &SqlSession,
        system: &SystemIdentity,
    ) -> Result<Lsn, IngestError> {
        if let Err(error) = self.close_journal().await {
            tracing::debug!(%error, "the journal had failed");
        }
        let stored = self.directory.origin().map_or(0, |origin| origin.epoch);
        self.epochs = self.epochs.max(stored) + 1;
        let epoch = self.epochs;
        let origin = Origin {
            system_id: system.system_id,
            timeline: system.timeline,
            database: system.database.clone(),
            slot: self.slot.clone(),
            epoch,
        };
        // First what a full disk refuses: a slot that nobody can read would hold WAL.
        let cleared = blocking(&self.directory, move |directory| {
            directory.clear()?;
            directory.adopt(&origin).map(drop)
        });
        cleared.await??;
        let creation =
            replication.create_slot(&self.slot, SlotKind::Permanent, SlotSnapshot::Nothing);
        let created = while_telling(creation, session, &self.slot, |blockers| {
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
        let journal = blocking(&self.directory, Directory::journal).await??;
        self.start_journal(journal, position)?;
        self.marks.history().begin(position, []);
        self.restored = true;
        self.queue.begin(Item::Begin { position, epoch }).await?;
        Ok(position)
    }

    /// Hands over to the applier what is stored: the indexes of a generation, which the journal leads on from there.
    async fn restore(
        &mut self,
        session: &SqlSession,
        journal: &RecoveredJournal,
    ) -> Result<(), IngestError> {
        let (Some(origin), Some((start, end))) = (self.directory.origin(), journal.range()) else {
            return Ok(());
        };
        let entries = read_indexes(session, &[]).await?.indexes;
        let memory = Arc::clone(&self.memory);
        let indexes = blocking(&self.directory, move |directory| {
            load(directory, entries, start, &memory)
        });
        let indexes = indexes.await?;
        let from = indexes.iter().map(|index| index.point).min();
        let from = from.unwrap_or(end).min(end);
        tracing::info!(indexes = indexes.len(), %from, %end, "continuing from what is stored");
        self.restored = true;
        let item = Item::Restore {
            position: end,
            epoch: origin.epoch,
            indexes,
        };
        Ok(self.queue.begin(item).await?)
    }
}

/// Refuses a data directory that was made for another cluster or database.
pub(crate) fn require_same_cluster(
    directory: &Directory,
    system: &SystemIdentity,
) -> Result<(), StoreError> {
    match directory.origin() {
        Some(origin) => {
            let now = Origin {
                system_id: system.system_id,
                database: system.database.clone(),
                ..origin
            };
            directory.adopt(&now).map(drop)
        }
        None => Ok(()),
    }
}
