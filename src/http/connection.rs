//! The phase of each open connection: waiting for a request, receiving its head, or answering it. It decides
//! when an incomplete head ends the connection, and which connection closes when there are too many.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
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

/// All open connections; clones share them.
#[derive(Clone, Default)]
pub struct Connections(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    next_id: u64,
    by_id: HashMap<u64, Arc<Connection>>,
}

/// One open connection.
pub struct Connection {
    state: Mutex<State>,
    close: Notify,
}

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

/// Counts a connection as open until it is dropped.
pub struct Registered {
    connection: Arc<Connection>,
    connections: Connections,
    id: u64,
}

impl Connections {
    pub fn add(&self) -> Registered {
        let state = State { phase: Phase::Idle, since: Instant::now(), is_known: false };
        let connection = Arc::new(Connection { state: Mutex::new(state), close: Notify::new() });
        let mut open = self.0.lock();
        open.next_id += 1;
        let id = open.next_id;
        open.by_id.insert(id, connection.clone());
        Registered { connection, connections: self.clone(), id }
    }

    /// Asks the connection to close that has waited longest for a complete head; connections that never had a
    /// request come first.
    pub fn close_longest_waiting(&self) {
        let now = Instant::now();
        let open = self.0.lock();
        let waiting = open.by_id.iter().filter_map(|(id, connection)| {
            let state = connection.state.lock();
            let is_long = state.phase != Phase::Request && now.duration_since(state.since) >= SHORT_WAIT;
            is_long.then_some((state.is_known, state.since, *id))
        });
        if let Some((_, _, id)) = waiting.min() {
            open.by_id[&id].close.notify_one();
        }
    }
}

impl std::ops::Deref for Registered {
    type Target = Arc<Connection>;

    fn deref(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.connections.0.lock().by_id.remove(&self.id);
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
