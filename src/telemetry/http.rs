//! GET `/metrics`, `/livez`, `/readyz` → text. Live never asks upstream; ready means that searches are answered from
//! the indexes, and turns false as soon as Rektor is told to stop.

use std::future::IntoFuture as _;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{Sources, metrics};
use crate::index::view::{Phase, View};

/// An index that is further behind than a WAL segment is not caught up.
const READY_LAG_BYTES: u64 = 16 << 20;

/// How long a scrape that has begun may go on after the end was asked for.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Shared {
    sources: Sources,
    stopping: watch::Receiver<bool>,
}

/// Serves until `shutdown` turns true. `stopping` turns true before: then `/readyz` says so, and all still answer.
pub async fn serve(
    listener: TcpListener,
    sources: Sources,
    stopping: watch::Receiver<bool>,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/livez", get(|| async { "live\n" }))
        .route("/readyz", get(ready_page))
        .with_state(Shared { sources, stopping });
    let mut told = shutdown.clone();
    let served = axum::serve(listener, router).with_graceful_shutdown(async move {
        // A sender that is gone means the same as true.
        drop(shutdown.wait_for(|stop| *stop).await);
    });
    let limit = async {
        drop(told.wait_for(|stop| *stop).await);
        tokio::time::sleep(SHUTDOWN_GRACE).await;
    };
    tokio::select! {
        biased;
        result = served.into_future() => result,
        () = limit => Ok(()),
    }
}

async fn metrics_page(State(shared): State<Shared>) -> Response {
    match metrics::render(&shared.sources) {
        Ok(page) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn ready_page(State(shared): State<Shared>) -> Response {
    let stopping = *shared.stopping.borrow();
    let (ready, page) = readiness(&shared.sources.view.borrow(), stopping);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, page).into_response()
}

/// Whether every index serves what upstream holds, and a line about each thing that says otherwise.
fn readiness(view: &View, stopping: bool) -> (bool, String) {
    let mut page = String::new();
    let mut unready = |line: String| {
        page.push_str(&line);
        page.push('\n');
    };
    if stopping {
        unready("stopping".to_owned());
    }
    if !view.streaming {
        let error = view.error.as_deref().unwrap_or("not connected yet");
        unready(format!("not streaming: {error}"));
    }
    if view.streaming && !view.complete {
        unready("the catalogue was not read yet".to_owned());
    } else if view.streaming
        && let Some(error) = &view.error
    {
        unready(error.clone());
    }
    for index in &view.indexes {
        let name = &index.definition.name;
        match &index.phase {
            Phase::Copying { percent } => unready(format!("index {name}: copying, {percent:.0} %")),
            Phase::Building { percent } => {
                unready(format!("index {name}: building, {percent:.0} %"))
            }
            Phase::Ready => {
                let lag = view.upstream.bytes_since(index.applied);
                if lag > READY_LAG_BYTES {
                    unready(format!("index {name}: {lag} bytes behind"));
                }
            }
            Phase::Failed { error } => unready(format!("index {name}: failed: {error}")),
        }
    }
    let ready = page.is_empty();
    if ready {
        page.push_str("ready\n");
    }
    (ready, page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_streaming_and_not_stopping() {
        let streaming = View {
            streaming: true,
            complete: true,
            ..View::default()
        };
        assert_eq!(readiness(&streaming, false), (true, "ready\n".to_owned()));
        assert_eq!(
            readiness(&streaming, true),
            (false, "stopping\n".to_owned())
        );
        let lost = View {
            error: Some("connection refused".to_owned()),
            ..View::default()
        };
        assert_eq!(
            readiness(&lost, false),
            (false, "not streaming: connection refused\n".to_owned())
        );
    }
}
