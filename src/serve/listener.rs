//! Connections: taken, bounded, and at the end let finish.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;

use super::access::Access;
use super::desk::{Desk, desk};
use super::metrics::Metrics;
use super::shelf::Shelf;
use super::{Limits, ServeError, api};
use crate::signals::Signals;

/// Time in which the head of a request has to come.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Time in which what has begun has to end, once the server is to stop.
const GRACE: Duration = Duration::from_secs(30);
/// Time in which a client has to take some of its answer.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// Files that the program has open itself.
const OWN_FILES: u64 = 128;
/// Between two looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    /// Where.
    pub address: SocketAddr,
    runtime: Runtime,
}

impl Server {
    /// Listens at `address` and serves `shelf` in threads of its own until a signal comes; what is asked of the model comes to the desk.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub fn start(
        address: SocketAddr,
        token: Option<&str>,
        limits: Limits,
        shelf: Shelf,
        signals: &Signals,
    ) -> Result<(Self, Desk), ServeError> {
        let connections = limits.connections.min(room_for_connections());
        if connections < limits.connections {
            tracing::warn!("room for {connections} connections at once; ulimit -n allows no more");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(ServeError::Threads)?;
        let listen = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let bound = listener.local_addr().map_err(listen)?;
        let metrics = Arc::new(Metrics::new());
        let over = Arc::new(AtomicBool::new(false));
        let (desk, counter) = desk(limits.queue, limits.batch, &metrics, &over);
        let router = api::router(shelf, counter, limits, &metrics, &Access::new(bound, token));
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(listen)?
        };
        let signals = signals.clone();
        runtime.spawn(async move {
            take(listener, router, &signals, connections).await;
            over.store(true, Ordering::SeqCst);
        });
        Ok((Self { address: bound, runtime }, desk))
    }

    /// Ends its threads; work that nobody waits for any more is left behind.
    pub fn end(self) {
        self.runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

/// Takes connections until it is to stop, then waits for those that there are.
async fn take(listener: tokio::net::TcpListener, router: Router, signals: &Signals, connections: usize) {
    let (graceful, room) = (GracefulShutdown::new(), Arc::new(Semaphore::new(connections)));
    while signals.check().is_ok() {
        let Ok(Ok(place)) = tokio::time::timeout(LOOK, room.clone().acquire_owned()).await else { continue };
        let stream = match tokio::time::timeout(LOOK, listener.accept()).await {
            Err(_) => continue,
            Ok(Ok((stream, _))) => stream,
            Ok(Err(error)) => {
                // Out of files, for instance; connections that end give some back.
                tracing::warn!("a connection cannot be taken: {error}");
                tokio::time::sleep(LOOK).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).half_close(false);
        let service = TowerToHyperService::new(router.clone());
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIME));
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(Box::pin(stream)), service));
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = connection.await {
                tracing::debug!("a connection broke: {error}");
            }
        });
    }
    drop((listener, router));
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end within {} seconds", GRACE.as_secs());
    }
}

/// Connections that there are files for, two each, beside what the program has open; as many files as may be are asked for.
fn room_for_connections() -> usize {
    let limits = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limits.maximum, ..limits };
    let files = setrlimit(Resource::Nofile, raised).map_or(limits.current, |()| limits.maximum);
    files.map_or(usize::MAX, |files| (files.saturating_sub(OWN_FILES) / 2) as usize).max(1)
}
