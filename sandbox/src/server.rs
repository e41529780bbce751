//! Serves a stand-in on loopback. Unlike a real server, it can reset a connection instead of answering.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
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
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// A running server, which stops when this is dropped.
pub struct Running {
    /// The address that it listens on.
    pub address: SocketAddr,
    _stop: DropGuard,
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

/// Serves on a free port of loopback until dropped.
pub async fn start(router: Router) -> io::Result<Running> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    listen(listener, router, Reserved::default())
}

/// The port of a server that is stopped: bound, so that no other server gets it meanwhile.
#[derive(Clone, Default)]
pub(crate) struct Reserved(Arc<Mutex<Option<TcpSocket>>>);

impl Reserved {
    fn slot(&self) -> MutexGuard<'_, Option<TcpSocket>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn keep(&self, address: SocketAddr) {
        *self.slot() = bound(address).ok();
    }

    /// Listens again at the address.
    pub(crate) fn listen(&self, address: SocketAddr, router: Router) -> io::Result<Running> {
        let socket = match self.slot().take() {
            Some(socket) => socket,
            None => bound(address)?,
        };
        listen(socket.listen(BACKLOG)?, router, self.clone())
    }
}

fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Serves until the result is dropped, and then keeps the port.
pub(crate) fn listen(listener: TcpListener, router: Router, reserved: Reserved) -> io::Result<Running> {
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        accept(&listener, router, stopped).await;
        drop(listener);
        reserved.keep(address);
    });
    Ok(Running { address, _stop: stop.drop_guard() })
}

async fn accept(listener: &TcpListener, router: Router, stop: CancellationToken) {
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
