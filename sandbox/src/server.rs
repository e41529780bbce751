//! Serves a stand-in on loopback. Unlike a real server, it can reset a connection instead of answering.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

/// A running server, which stops when this is dropped.
pub struct Running {
    /// The address that it listens on.
    pub address: SocketAddr,
    _stop: DropGuard,
}

/// A server that can be stopped, and started again at the same address. Clones are the same server.
#[derive(Clone)]
pub struct Server {
    running: Arc<Mutex<Option<Running>>>,
    router: Router,
    /// The address that it listens on.
    pub address: SocketAddr,
}

impl Server {
    /// Starts it on a free port of loopback.
    pub async fn start(router: Router) -> io::Result<Server> {
        let running = start(router.clone(), None).await?;
        let address = running.address;
        Ok(Server { running: Arc::new(Mutex::new(Some(running))), router, address })
    }

    /// Stops listening: connections are refused.
    pub fn stop(&self) {
        *self.slot() = None;
    }

    /// Listens again.
    pub async fn restart(&self) -> io::Result<()> {
        let running = start(self.router.clone(), Some(self.address)).await?;
        *self.slot() = Some(running);
        Ok(())
    }

    fn slot(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// An answer that is not sent: the connection is reset instead.
#[derive(Clone, Copy)]
pub struct BreakOff;

impl IntoResponse for BreakOff {
    fn into_response(self) -> Response {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Sets the date of a clock that is ahead by this much. Without a difference, the server sets the date.
pub fn date(mut response: Response, ahead: SignedDuration) -> Response {
    let now = Timestamp::now().saturating_add(ahead).unwrap_or_default();
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now);
    if let (false, Ok(date)) = (ahead.is_zero(), date.unwrap_or_default().parse::<HeaderValue>()) {
        response.headers_mut().insert(header::DATE, date);
    }
    response
}

/// Binds to `address`, on loopback with port 0 if there is none, and serves until dropped.
pub async fn start(router: Router, address: Option<SocketAddr>) -> io::Result<Running> {
    let listener = TcpListener::bind(address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)))).await?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    tokio::spawn(accept(listener, router, stop.clone()));
    Ok(Running { address, _stop: stop.drop_guard() })
}

async fn accept(listener: TcpListener, router: Router, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                tokio::spawn(serve(stream, router.clone(), stop.clone()));
            },
        }
    }
}

async fn serve(stream: TcpStream, router: Router, stop: CancellationToken) {
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let router = router.clone();
        async move { answer(router, request.map(Body::new)).await }
    });
    tokio::select! {
        () = stop.cancelled() => {}
        _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service) => {}
    }
}

/// An error ends the connection without a byte of an answer.
async fn answer(router: Router, request: Request) -> io::Result<Response> {
    let response = match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never as Infallible {},
    };
    match response.extensions().get::<BreakOff>() {
        Some(_) => Err(io::ErrorKind::ConnectionReset.into()),
        None => Ok(response),
    }
}
