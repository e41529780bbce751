//! A TCP proxy before a database, whose wire can be cut and mended.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Whole,
    /// Connections break, and new ones are closed at once.
    Cut,
    /// Bytes go in and nothing comes out, as where a firewall swallows packets.
    Silent,
}

pub struct Proxy {
    pub address: SocketAddr,
    wire: watch::Sender<Wire>,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (wire, state) = watch::channel(Wire::Whole);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, target, state.clone()));
            }
        });
        Proxy { address, wire }
    }

    pub fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }
}

async fn carry(mut inner: TcpStream, target: SocketAddr, mut state: watch::Receiver<Wire>) {
    let wire = *state.borrow_and_update();
    match wire {
        Wire::Cut => return,
        Wire::Silent => swallow(&mut inner, &mut state).await,
        Wire::Whole => {}
    }
    let Ok(mut outer) = TcpStream::connect(target).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut inner, &mut outer) => return,
        _ = state.changed() => {}
    }
    if *state.borrow_and_update() == Wire::Silent {
        swallow(&mut inner, &mut state).await;
    }
    // What was under way is lost with the connection.
    let _ = inner.shutdown().await;
}

async fn swallow(stream: &mut TcpStream, state: &mut watch::Receiver<Wire>) {
    let mut bytes = [0; 4096];
    loop {
        tokio::select! {
            read = stream.read(&mut bytes) => if matches!(read, Ok(0) | Err(_)) { return },
            _ = state.changed() => return,
        }
    }
}
