//! The accept loop: HTTP/1.1 with limits on what a connection may cost, and a drain.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

/// Open connections; further ones wait to be accepted.
const CONNECTIONS: usize = 2000;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Who asks and does not read the answer is not waited for.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a shortage is logged while it lasts.
const SHORTAGE_LINE: Duration = Duration::from_secs(60);
/// Long enough for a busy system to close something when it is out of file handles.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves until told to stop, then lets every request that has begun come to its end. The caller
/// bounds how long that may take: dropping this future closes what is still open.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    let mut shortage = None;
    let cut = CancellationToken::new();
    let _cut_on_drop = cut.clone().drop_guard();
    loop {
        // The semaphore is never closed, so only the stop can end this.
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = places.clone().acquire_owned() => place,
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &mut shortage) => accepted,
        };
        let (router, stop, cut) = (router.clone(), stop.clone(), cut.clone());
        connections.spawn(async move {
            let _place = place;
            tokio::select! {
                () = cut.cancelled() => {}
                () = serve_connection(accepted, router, stop) => {}
            }
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Errors of accepting are either the visitor's, who is gone, or a shortage that passes.
async fn accept(listener: &TcpListener, shortage: &mut Option<Instant>) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if is_visitors(&error) => {}
            Err(error) => {
                if shortage.is_none_or(|at| at.elapsed() >= SHORTAGE_LINE) {
                    *shortage = Some(Instant::now());
                    warn!("a connection cannot be accepted: {error} (raise the limit of open files)");
                }
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

fn is_visitors(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn serve_connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    // Answers are small and wait for nothing.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router));
    tokio::pin!(connection);
    // How a connection ends is the visitor's affair.
    tokio::select! {
        _ = &mut connection => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
