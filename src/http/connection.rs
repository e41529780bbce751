//! The phase of each open connection: waiting for a request, receiving its head, or answering it. It decides
//! when an incomplete head ends the connection, and which connection closes when there are too many.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};

/// From the first byte of a request to the last one of its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// If a connection has waited for less than this, its next request may be on the way.
const SHORT_WAIT: Duration = Duration::from_secs(1);

/// All open connections.
#[derive(Default)]
pub struct Connections(Vec<Weak<Connection>>);

/// One open connection.
pub struct Connection {
    state: Mutex<State>,
    close: Notify,
}

#[derive(Clone, Copy)]
struct State {
    phase: Phase,
    since: Instant,
    /// It has had a complete request.
    is_known: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No byte of the next request has come.
    Idle,
    /// A part of the next request's head has come.
    Head,
    /// The request is being answered.
    Request,
}

impl Connections {
    /// Adds a connection, which is open until all its handles are dropped.
    pub fn add(&mut self) -> Arc<Connection> {
        if self.0.len() == self.0.capacity() {
            self.0.retain(|connection| connection.strong_count() > 0);
        }
        let state = State { phase: Phase::Idle, since: Instant::now(), is_known: false };
        let connection = Arc::new(Connection { state: Mutex::new(state), close: Notify::new() });
        self.0.push(Arc::downgrade(&connection));
        connection
    }

    /// Asks the connection to close that has waited longest for a complete head; connections that never had a
    /// request come first.
    pub fn close_longest_waiting(&self) {
        let now = Instant::now();
        let waiting = self.0.iter().filter_map(Weak::upgrade).filter_map(|connection| {
            let State { phase, since, is_known } = *connection.state.lock();
            let is_long = phase != Phase::Request && now.duration_since(since) >= SHORT_WAIT;
            is_long.then_some((is_known, since, connection))
        });
        if let Some((_, _, connection)) = waiting.min_by_key(|(is_known, since, _)| (*is_known, *since)) {
            connection.close.notify_one();
        }
    }
}

impl Connection {
    /// The head of a request is complete.
    pub fn begin_request(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Request;
        state.is_known = true;
    }

    /// The request is answered, and the next one may come.
    pub fn end_request(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Idle;
        state.since = Instant::now();
    }

    /// Whether no request would be lost if the connection were closed.
    pub fn is_waiting(&self) -> bool {
        self.state.lock().phase != Phase::Request
    }

    pub async fn asked_to_close(&self) {
        self.close.notified().await;
    }

    /// A head begins with the first byte that comes while no request is being answered.
    fn note_bytes(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Idle {
            state.phase = Phase::Head;
            state.since = Instant::now();
        }
    }

    /// When the head has to be complete, if one has begun.
    fn head_deadline(&self) -> Option<Instant> {
        let state = self.state.lock();
        (state.phase == Phase::Head).then(|| state.since + HEAD_TIMEOUT)
    }
}

/// The reading half of a connection. A head has to be complete within [`HEAD_TIMEOUT`] of its first byte.
pub struct HeadTimeout<S> {
    stream: S,
    connection: Arc<Connection>,
    /// Set only while a read waits for the rest of a head; most heads arrive whole.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> HeadTimeout<S> {
    pub fn new(stream: S, connection: Arc<Connection>) -> HeadTimeout<S> {
        HeadTimeout { stream, connection, deadline: None }
    }

    /// Fails once the head is late; otherwise wakes the task at that time.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(at) = self.connection.head_deadline() else {
            self.deadline = None;
            return Poll::Pending;
        };
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if deadline.deadline() != at {
            deadline.as_mut().reset(at);
        }
        ready!(deadline.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Pending => self.poll_deadline(context),
            read => {
                if buffer.filled().len() > before {
                    self.connection.note_bytes();
                }
                read
            }
        }
    }
}
