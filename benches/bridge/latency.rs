//! What we add between a label and its ticket, on a system that is otherwise idle.

use std::time::{Duration, Instant};

use crate::bridge::{Database, World, free_port};
use crate::load::{Client, Latencies, Notification};
use crate::report::{Report, figure};
use crate::zendesk::Zendesk;

const SECTION: &str = "latency";
/// Until everything of the last label has come to its end.
const REST: Duration = Duration::from_millis(20);

pub async fn measure(report: &mut Report) {
    labels(report, Duration::ZERO, 100).await;
    labels(report, Duration::from_millis(300), 50).await;
}

async fn labels(report: &mut Report, delay: Duration, count: usize) {
    let port = free_port();
    let mut zendesk = Zendesk::start(port, delay).await;
    let world = World::new(Database::sqlite(), port).await;
    let bridge = world.start().await;
    let (mut client, mut notification) = (Client::connect(world.port).await.unwrap(), Notification::new());
    let (mut answers, mut creates) = (Latencies::default(), Latencies::default());
    // The first five are a warm-up.
    for label in 0..count + 5 {
        let sent = Instant::now();
        assert_eq!(client.exchange(notification.next()).await.unwrap(), 200);
        let answered = sent.elapsed();
        let arrived = zendesk.creates.recv().await.unwrap() - sent;
        if label >= 5 {
            answers.push(answered);
            creates.push(arrived);
        }
        tokio::time::sleep(delay + REST).await;
    }
    for (to, latencies) in [("answer", &mut answers), ("create at Zendesk", &mut creates)] {
        let name = format!("label to {to}, Zendesk takes {} ms", delay.as_millis());
        let (p50, p99) = (latencies.percentile(50.0), latencies.percentile(99.0));
        report.add(SECTION, &name, [figure("p50", p50, "ms"), figure("p99", p99, "ms")]);
    }
    bridge.stop().await;
}
