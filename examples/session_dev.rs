//! dev
use rektor::session::*;
use std::sync::Arc;
#[tokio::main]
async fn main() {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let a: Vec<String> = std::env::args().collect();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", a[1].parse::<u16>().unwrap()))
        .await
        .unwrap();
    let (_view, rx) = tokio::sync::watch::channel(Arc::default());
    let (_stop, srx) = tokio::sync::watch::channel(false);
    let context = Context {
        upstream: UpstreamAddress::Tcp {
            host: "127.0.0.1".into(),
            port: a[2].parse().unwrap(),
        },
        database: "app".into(),
        view: rx,
        max_connections: 100,
        allow_trust: false,
        counters: Arc::default(),
    };
    serve(listener, context, srx).await.unwrap();
}
