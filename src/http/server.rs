//! The accept loop: HTTP/1.1 with limits on what a connection may cost, and a drain.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::connection::{Connection, Connections, HeadTimeout};
use super::refused::Tally;

/// Open connections. For a further one, the connection that has waited longest for a request is closed.
const CONNECTIONS: usize = 2000;
/// Connections that wait to be accepted, as in tokio.
const BACKLOG: i32 = 1024;
/// The largest head of a request, and how much of a body is read at once.
const BUFFER_BYTES: usize = 32 << 10;
/// How long a client may read nothing of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The wait for a file handle or a connection to be closed.
const AGAIN: Duration = Duration::from_millis(100);

/// Listens on an address. The address of all IPv6 interfaces includes IPv4; on a system without IPv6 it means
/// IPv4 alone.
///
/// # Errors
/// The port is taken, or this machine does not have the address.
pub fn listen(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    match bind(SocketAddr::new(address, port)) {
        Err(error) if address == Ipv6Addr::UNSPECIFIED && error.kind() != io::ErrorKind::AddrInUse => {
            bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
        }
        bound => bound,
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    // Connections that the last process left must not delay the start.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves until `stop`, then finishes every request that has begun. The caller bounds how long that may take:
/// dropping this future closes all open connections.
///
/// `idle` is how long a connection may wait for its next request. It has to be longer than a proxy in front
/// keeps its connections, since the proxy loses a request that meets our close.
pub async fn serve(listener: TcpListener, router: Router, idle: Duration, stop: CancellationToken) {
    let (permits, mut connections) = (Arc::new(Semaphore::new(CONNECTIONS)), Connections::default());
    let tasks = TaskTracker::new();
    let mut shortage = Tally::default();
    let cut = CancellationToken::new();
    let _cut_on_drop = cut.clone().drop_guard();
    loop {
        let next = async {
            let stream = accept(&listener, &mut shortage).await;
            (stream, permit(&permits, &connections).await)
        };
        let (stream, permit) = tokio::select! {
            () = stop.cancelled() => break,
            next = next => next,
        };
        let connection = connections.add();
        let (router, stop, cut) = (router.clone(), stop.clone(), cut.clone());
        tasks.spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = cut.cancelled() => {}
                () = serve_connection(stream, &connection, router, idle, stop) => {}
            }
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// Waits until one more connection may be open; if there are too many, closes another one.
async fn permit(permits: &Arc<Semaphore>, connections: &Connections) -> Option<OwnedSemaphorePermit> {
    loop {
        if let Ok(permit) = permits.clone().try_acquire_owned() {
            return Some(permit);
        }
        connections.close_longest_waiting();
        // The semaphore is never closed, so this ends with a permit.
        if let Ok(permit) = tokio::time::timeout(AGAIN, permits.clone().acquire_owned()).await {
            return permit.ok();
        }
    }
}

/// Accepts a connection. Errors come from a client that is gone, or from a shortage that passes.
async fn accept(listener: &TcpListener, shortage: &mut Tally) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if is_of_client(&error) => {}
            Err(error) => {
                if let Some(count) = shortage.count(Instant::now()) {
                    warn!(
                        event = "accept_failed",
                        count,
                        "could not accept {count} connection(s), trying again; if it repeats, raise the limit of open \
                         files: {error}"
                    );
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

fn is_of_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn serve_connection(
    stream: TcpStream,
    connection: &Arc<Connection>,
    router: Router,
    idle: Duration,
    stop: CancellationToken,
) {
    // Answers are small and wait for nothing.
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let mut writer = TimeoutWriter::new(writer);
    writer.set_timeout(Some(WRITE_TIMEOUT));
    let stream = tokio::io::join(HeadTimeout::new(reader, connection.clone()), Box::pin(writer));
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request| {
        connection.begin_request();
        let answer = router.call(request);
        async {
            let answer = answer.await;
            connection.end_request();
            answer
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        // Starts when a connection begins to wait for a request: the idle limit.
        .header_read_timeout(idle)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    // Errors of a connection concern only the client.
    tokio::select! {
        _ = &mut serving => return,
        () = stop.cancelled() => {}
        () = connection.asked_to_close() => if connection.is_waiting() { return },
    }
    serving.as_mut().graceful_shutdown();
    let _ = serving.await;
}
