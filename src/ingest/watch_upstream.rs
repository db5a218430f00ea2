//! Upstream's catalogue and the slot, read whenever asked and now and then unasked → what the applier and the budget are told; and
//! what the catalogue shows to be amiss, mended. Never interprets what it reads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_postgres::Config;

use crate::ingest::apply::{CatalogueRequest, Control};
use crate::ingest::marks::Marks;
use crate::ingest::stopped;
use crate::lsn::Lsn;
use crate::upstream::catalogue::{IndexEntry, mend, read_indexes};
use crate::upstream::sql::SqlSession;
use crate::upstream::{UpstreamError, slot};

/// SQLSTATEs `undefined_table` and `invalid_schema_name`: schema rektor was removed, and with it every index.
const NOT_INSTALLED: [&str; 2] = ["42P01", "3F000"];
/// How often the catalogue is read unasked, for what the stream does not tell.
const INTERVAL: Duration = Duration::from_secs(2);
/// WAL after which upstream is asked for a record of its running transactions. The slot keeps WAL back to the last such record
/// that it could pass; of itself a server writes one every 15 s, which can be gigabytes.
const RECORD_BYTES: u64 = 8 << 20;
/// Between two looks at how much it was: at 200 MB/s it is 10 MB.
const RECORD_LOOK: Duration = Duration::from_millis(50);
/// Pause after it could not be read.
const PAUSE: Duration = Duration::from_millis(500);

/// Looks at upstream.
#[derive(Debug)]
pub(crate) struct Watcher {
    pub(crate) config: Config,
    pub(crate) slot: String,
    pub(crate) controls: mpsc::Sender<Control>,
    pub(crate) requests: watch::Receiver<CatalogueRequest>,
    /// Bytes of WAL that are kept for the slot.
    pub(crate) kept: watch::Sender<u64>,
    pub(crate) marks: Arc<Marks>,
    /// Upstream's position when it was asked last for a record of its running transactions.
    pub(crate) recorded: Lsn,
    /// Why mending has failed last.
    pub(crate) complaint: Option<String>,
    pub(crate) stop: watch::Receiver<bool>,
}

impl Watcher {
    /// Looks until `stop`.
    pub(crate) async fn run(mut self) {
        let mut session = None;
        let mut stop = self.stop.clone();
        loop {
            let request = self.requests.borrow_and_update().clone();
            let began = Instant::now();
            let read = tokio::select! {
                biased;
                () = stopped(&mut stop) => return,
                read = self.look(&mut session, &request.xids) => read,
            };
            let failed = read.is_err();
            let told = match read {
                Ok(entries) => {
                    let request = request.number;
                    let told = Control::Catalogue {
                        request,
                        began,
                        entries,
                    };
                    self.tell(told).await
                }
                Err(error) => {
                    session = None;
                    self.tell_failure(&error).await
                }
            };
            if told.is_none() {
                return;
            }
            let pause = tokio::time::sleep(if failed { PAUSE } else { INTERVAL });
            let mut pause = std::pin::pin!(pause);
            loop {
                tokio::select! {
                    biased;
                    () = stopped(&mut stop) => return,
                    () = &mut pause => break,
                    changed = self.requests.changed(), if !failed => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    () = tokio::time::sleep(RECORD_LOOK), if !failed => {}
                }
                if let Some(session) = &session {
                    self.let_go(session).await;
                }
            }
        }
    }

    /// While much is written upstream, moves the place on to which its WAL is kept for the slot.
    async fn let_go(&mut self, session: &SqlSession) {
        let upstream = self.marks.upstream();
        if upstream.bytes_since(self.recorded) < RECORD_BYTES {
            return;
        }
        self.recorded = upstream;
        if let Err(error) = slot::record_running(session).await {
            tracing::debug!(%error, "no record of running transactions");
        }
    }

    /// `None` when the applier is gone, as it is only when everything stops.
    async fn tell(&self, control: Control) -> Option<()> {
        self.controls.send(control).await.ok()
    }

    async fn tell_failure(&self, error: &UpstreamError) -> Option<()> {
        tracing::debug!(%error, "the catalogue cannot be read");
        let state = error.sqlstate();
        if state.is_some_and(|state| NOT_INSTALLED.contains(&state)) {
            let none = Control::Catalogue {
                request: 0,
                began: Instant::now(),
                entries: Vec::new(),
            };
            self.tell(none).await?;
        }
        let text = format!("the catalogue cannot be read: {error}");
        self.tell(Control::CatalogueFailed(text)).await
    }

    async fn look(
        &mut self,
        session: &mut Option<SqlSession>,
        xids: &[u32],
    ) -> Result<Vec<IndexEntry>, UpstreamError> {
        let session = match session {
            Some(session) => session,
            None => session.insert(SqlSession::connect(&self.config).await?),
        };
        let status = slot::status(session, &self.slot).await?;
        self.kept
            .send_replace(status.as_ref().map_or(0, |status| status.retained));
        let _stopping = self.tell(Control::Slot(status)).await;
        let catalogue = read_indexes(session, xids).await?;
        if !catalogue.to_mend {
            return Ok(catalogue.indexes);
        }
        match mend(session).await {
            Ok(done) => {
                self.complaint = None;
                done.iter().for_each(|line| tracing::warn!("{line}"));
            }
            // What is to be mended is shown by the index itself; the next reading tries again, and says it only once.
            Err(error) => {
                let error = error.to_string();
                if self.complaint.as_ref() != Some(&error) {
                    tracing::warn!(error, "the catalogue cannot be mended");
                }
                self.complaint = Some(error);
            }
        }
        Ok(read_indexes(session, &[]).await?.indexes)
    }
}
