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
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::connection::{Connection, Connections, HeadTimeout};

/// Open connections. For a further one, the connection that has waited longest for a request is closed.
const CONNECTIONS: usize = 2000;
/// Connections that wait to be accepted, as tokio has it.
const BACKLOG: i32 = 1024;
/// The largest head of a request, and how much of a body is read at once.
const BUFFER_BYTES: usize = 32 << 10;
/// Who asks and does not read the answer is not waited for.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a shortage is logged while it lasts.
const SHORTAGE_LINE: Duration = Duration::from_secs(60);
/// Long enough for a busy system to close something when it is out of file handles or of connections.
const AGAIN: Duration = Duration::from_millis(100);

/// Listens on an address. That of all IPv6 interfaces includes those of IPv4, and means them alone
/// where the system has no IPv6.
///
/// # Errors
/// The system's: the port is taken, or the address is not this machine's.
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
    // What is left of the last process' connections is no reason to wait.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves until told to stop, then lets every request that has begun come to its end. The caller
/// bounds how long that may take: dropping this future closes what is still open.
///
/// `idle` is how long a connection may wait for its next request. It has to be longer than the proxy
/// in front keeps its connections: the proxy loses a request that meets the close.
pub async fn serve(listener: TcpListener, router: Router, idle: Duration, stop: CancellationToken) {
    let (places, connections) = (Arc::new(Semaphore::new(CONNECTIONS)), Connections::default());
    let tasks = TaskTracker::new();
    let mut shortage = None;
    let cut = CancellationToken::new();
    let _cut_on_drop = cut.clone().drop_guard();
    loop {
        let next = async {
            let stream = accept(&listener, &mut shortage).await;
            (stream, place(&places, &connections).await)
        };
        let (stream, place) = tokio::select! {
            () = stop.cancelled() => break,
            next = next => next,
        };
        let connection = connections.add();
        let (router, stop, cut) = (router.clone(), stop.clone(), cut.clone());
        tasks.spawn(async move {
            let _place = place;
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

/// A place for one more connection. If there is none, another connection has to give up its own.
async fn place(places: &Arc<Semaphore>, connections: &Connections) -> Option<OwnedSemaphorePermit> {
    loop {
        if let Ok(place) = places.clone().try_acquire_owned() {
            return Some(place);
        }
        connections.close_longest_waiting();
        // The semaphore is never closed, so there is always a place in the end.
        if let Ok(place) = tokio::time::timeout(AGAIN, places.clone().acquire_owned()).await {
            return place.ok();
        }
    }
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
                    warn!(
                        event = "accept_failed",
                        "could not accept a connection: {error}. Raise the limit of open files"
                    );
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

fn is_visitors(error: &io::Error) -> bool {
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
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let stream = HeadTimeout::new(Box::pin(stream), connection.clone());
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
    // How a connection ends is the visitor's affair.
    tokio::select! {
        _ = &mut serving => return,
        () = stop.cancelled() => {}
        () = connection.asked_to_close() => if connection.is_waiting() { return },
    }
    serving.as_mut().graceful_shutdown();
    let _ = serving.await;
}
