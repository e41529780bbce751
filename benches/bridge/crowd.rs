//! Whether idle connections slow down working ones.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::bridge::{Database, World};
use crate::load::{self, Latencies};
use crate::report::{Report, figure};

const CROWD: usize = 1000;
const CONNECTIONS: usize = 8;
/// In turn, so that what else the machine does hits both.
const TURNS: usize = 2;

pub async fn measure(report: &mut Report) {
    let world = World::without_zendesk(Database::sqlite()).await;
    let bridge = world.start().await;
    let (mut alone, mut among) = (Latencies::default(), Latencies::default());
    let mut left = 0;
    for _ in 0..TURNS {
        alone.extend(load::run(world.port, CONNECTIONS, || ()).await.latencies);
        let crowd = idlers(world.port).await;
        among.extend(load::run(world.port, CONNECTIONS, || ()).await.latencies);
        left = crowd.iter().filter(|idler| is_open(idler)).count();
    }
    for (name, latencies) in
        [("8 connections, alone", &mut alone), ("8 connections, among 1,000", &mut among)]
    {
        let (p50, p99) = (latencies.percentile(50.0), latencies.percentile(99.0));
        report.add("crowd", name, [figure("p50", p50, "ms"), figure("p99", p99, "ms")]);
    }
    let ratio = among.percentile(99.0) / alone.percentile(99.0);
    let figures = [figure("ratio", ratio, ""), figure("still open", left as f64, "")];
    report.add("crowd", "p99 among them over p99 alone", figures);
    bridge.stop().await;
}

/// Half of them say nothing and half have begun a header. They are hung up on after 10 s, when the
/// measuring is over.
async fn idlers(port: u16) -> Vec<TcpStream> {
    let mut idlers = JoinSet::new();
    for number in 0..CROWD {
        idlers.spawn(async move {
            let mut idler = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            if number % 2 == 0 {
                idler.write_all(b"POST /khoros/label HTTP/1.1\r\nauthoriza").await.unwrap();
            }
            idler
        });
    }
    idlers.join_all().await
}

fn is_open(idler: &TcpStream) -> bool {
    let read = idler.try_read(&mut [0; 1]);
    read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}
