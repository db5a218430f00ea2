//! The WAL that upstream keeps for the slot → the slot given up when it is more than was allowed, and the way free for a new one
//! when what held it up has ended. The primary comes first: a copy costs less than its disk. Never drops a slot that someone
//! else uses.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::ingest::apply::Control;
use crate::ingest::follow::Follower;
use crate::ingest::restore::blocking;
use crate::ingest::{IngestError, stopped};
use crate::store::Directory;
use crate::upstream::sql::SqlSession;
use crate::upstream::{UpstreamError, slot};

/// Pause after the slot was given up; doubled each time, so that what comes back does not copy all tables all the time.
const PAUSE_FIRST: Duration = Duration::from_secs(5);
/// Most doublings: about 90 minutes.
const PAUSE_DOUBLINGS: u32 = 10;
/// A slot that lasted this long begins the doubling anew.
const STEADY: Duration = Duration::from_secs(600);
/// Between two attempts to drop the slot, and two looks at what held it up.
const RETRY: Duration = Duration::from_secs(1);

const MIB: u64 = 1 << 20;

/// How much WAL is kept for the slot, as it was looked at last, and how much may be.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    kept: watch::Receiver<u64>,
    limit: Option<u64>,
}

impl Budget {
    pub(crate) fn new(kept: watch::Receiver<u64>, limit: Option<u64>) -> Self {
        Self { kept, limit }
    }

    /// Waits until more is kept than may be. Cancel-safe.
    pub(super) async fn exceeded(&mut self) -> IngestError {
        if let Some(limit) = self.limit
            && let Ok(kept) = self.kept.wait_for(|kept| *kept > limit).await
        {
            return IngestError::Budget {
                held: *kept / MIB,
                limit: limit / MIB,
            };
        }
        std::future::pending().await
    }

    /// Waits until a look at the slot has found no more than may be.
    async fn kept(&mut self) {
        if let Some(limit) = self.limit {
            // Whoever looks ends only when everything does.
            drop(self.kept.wait_for(|kept| *kept <= limit).await);
        }
    }
}

/// How often the slot was given up lately.
#[derive(Debug, Default)]
pub(super) struct GivenUp(u32);

impl GivenUp {
    /// The stream flowed for that long.
    pub(super) fn streamed(&mut self, time: Duration) {
        if time >= STEADY {
            self.0 = 0;
        }
    }

    fn pause(&mut self) -> Duration {
        let pause = PAUSE_FIRST * 2_u32.pow(self.0.min(PAUSE_DOUBLINGS));
        self.0 = self.0.saturating_add(1);
        pause
    }
}

impl Follower {
    /// Drops the slot and what is stored of it; returns when a new one may be created, or everything stops.
    pub(super) async fn give_up(&mut self, failure: &IngestError, times: &mut GivenUp) {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stopped(&mut stop) => {}
            () = self.release(failure.to_string(), times.pause()) => {}
        }
    }

    async fn release(&mut self, reason: String, pause: Duration) {
        tracing::error!("{reason}; searches go upstream until it begins anew");
        // The applier is gone only when everything stops.
        let _stopping = self.controls.send(Control::GivenUp(reason.clone())).await;
        let running = loop {
            match self.drop_slot().await {
                Ok(next) => break next,
                Err(error) => {
                    let wait = format!("{reason}; it cannot be dropped yet: {error}");
                    self.tell(false, Some(wait)).await;
                }
            }
            sleep(RETRY).await;
        };
        if let Err(error) = self.forget().await {
            // A new slot is created only when there is room for its journal.
            tracing::warn!(%error, "what was stored of the replication slot cannot be removed yet");
        }
        self.tell(false, Some(reason.clone())).await;
        sleep(pause).await;
        self.budget.kept().await;
        loop {
            let wait = match self.have_ended(running).await {
                Ok(true) => return,
                Ok(false) => format!("{reason}; transactions that ran then still do"),
                Err(error) => format!("{reason}; {error}"),
            };
            self.tell(false, Some(wait)).await;
            sleep(RETRY).await;
        }
    }

    /// The first transaction number that was not given to anyone when the slot was dropped.
    async fn drop_slot(&self) -> Result<i64, UpstreamError> {
        let session = SqlSession::connect(&self.config).await?;
        slot::give_up(&session, &self.slot, self.walsender).await?;
        Ok(slot::running(&session).await?.1)
    }

    /// Whether every transaction before that number has ended: an older one would hold up the new slot as it did the last.
    async fn have_ended(&self, number: i64) -> Result<bool, UpstreamError> {
        let session = SqlSession::connect(&self.config).await?;
        Ok(slot::running(&session).await?.0 >= number)
    }

    async fn forget(&mut self) -> Result<(), IngestError> {
        if let Err(error) = self.close_journal().await {
            tracing::debug!(%error, "the journal had failed");
        }
        blocking(&self.directory, Directory::clear).await??;
        Ok(())
    }
}
