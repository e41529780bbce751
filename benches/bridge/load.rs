//! A small load generator: keep-alive connections that send one notification after the other.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use casebridge_sandbox::khoros::EXAMPLE;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bridge::BEARER;

const EVENT: &str = "67c53595-efc3-46aa-963b-89650bd4bd98";
const ENTITY: &str = "900000000000000000";
const WARM_UP: Duration = Duration::from_secs(1);
const MEASURE: Duration = Duration::from_secs(4);

/// How long each of many calls took.
#[derive(Default)]
pub struct Latencies {
    micros: Vec<u32>,
    sorted: bool,
}

impl Latencies {
    pub fn push(&mut self, latency: Duration) {
        self.micros.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
        self.sorted = false;
    }

    pub fn extend(&mut self, others: Latencies) {
        self.micros.extend(others.micros);
        self.sorted = false;
    }

    pub fn len(&self) -> usize {
        self.micros.len()
    }

    /// In milliseconds.
    pub fn percentile(&mut self, percent: f64) -> f64 {
        if !self.sorted {
            self.micros.sort_unstable();
            self.sorted = true;
        }
        let rank = (self.micros.len() as f64 * percent / 100.0).ceil() as usize;
        self.micros.get(rank.saturating_sub(1)).map_or(f64::NAN, |micros| f64::from(*micros) / 1000.0)
    }
}

/// A request with a notification as Khoros publishes it (1 kB), of which each copy that is sent has
/// an event and a post of its own.
#[derive(Clone)]
pub struct Notification {
    bytes: Vec<u8>,
    event: usize,
    entity: usize,
}

impl Notification {
    pub fn new() -> Notification {
        let body = EXAMPLE.replace("<twitterId>", ENTITY);
        let bytes = request(&body);
        let at = |text: &str| bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
        let (event, entity) = (at(EVENT), at(ENTITY));
        Notification { bytes, event, entity }
    }

    /// The next one. Events have random ids, as Khoros' do; posts have growing ones, as Twitter's do.
    pub fn next(&mut self) -> &[u8] {
        let mut event = &mut self.bytes[self.event..][..EVENT.len()];
        let id = fastrand::u128(..).to_be_bytes();
        let part = |range: std::ops::Range<usize>| {
            id[range].iter().fold(0u64, |part, byte| part << 8 | u64::from(*byte))
        };
        let (a, b, c, d, e) = (part(0..4), part(4..6), part(6..8), part(8..10), part(10..16));
        write!(event, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}").unwrap();
        let mut entity = &mut self.bytes[self.entity..][..ENTITY.len()];
        write!(entity, "{}", next_post()).unwrap();
        &self.bytes
    }
}

/// A request with a notification of so many posts.
pub fn notification_of(posts: usize) -> Vec<u8> {
    let mut notification: Value = serde_json::from_str(EXAMPLE).unwrap();
    let item = notification["data"]["items"][0].clone();
    let items = (0..posts).map(|_| {
        let mut item = item.clone();
        item["entityId"] = json!(format!("twitter:{}", next_post()));
        item
    });
    notification["data"]["items"] = items.collect();
    notification["eventUuid"] = json!(format!("bench-{:032x}", fastrand::u128(..)));
    request(&notification.to_string())
}

fn next_post() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(900_000_000_000_000_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn request(body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST /khoros/label HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {BEARER}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// One keep-alive connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub async fn connect(port: u16) -> std::io::Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, buffer: vec![0; 16 << 10] })
    }

    /// Sends a request and reads the answer to its end; returns its status.
    pub async fn exchange(&mut self, request: &[u8]) -> std::io::Result<u16> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        loop {
            match self.stream.read(&mut self.buffer[filled..]).await? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
            if let Some(status) = complete(&self.buffer[..filled]) {
                return Ok(status);
            }
        }
    }
}

/// The status, once the whole answer is there.
fn complete(answer: &[u8]) -> Option<u16> {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&answer[..head]).ok()?;
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let status = text.get(9..12)?.parse().ok()?;
    (answer.len() >= head + 4 + length.unwrap_or(0)).then_some(status)
}

/// What a few seconds of load have shown.
pub struct Measured<Probe> {
    pub latencies: Latencies,
    /// Answers other than 200, and connections that broke.
    pub refused: usize,
    pub seconds: f64,
    /// What was looked at when the measuring began, and when it ended.
    pub probes: (Probe, Probe),
}

impl<Probe> Measured<Probe> {
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.seconds
    }
}

/// Keeps so many connections busy, each with one request at a time.
pub async fn run<Probe>(port: u16, connections: usize, probe: impl Fn() -> Probe) -> Measured<Probe> {
    let (begin, notification) = (Instant::now() + WARM_UP, Notification::new());
    let end = begin + MEASURE;
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        clients.spawn(keep_busy(port, notification.clone(), begin, end));
    }
    tokio::time::sleep_until(begin).await;
    let first = probe();
    tokio::time::sleep_until(end).await;
    let last = probe();
    let (mut latencies, mut refused) = (Latencies::default(), 0);
    for (theirs, not_taken) in clients.join_all().await {
        latencies.extend(theirs);
        refused += not_taken;
    }
    Measured { latencies, refused, seconds: MEASURE.as_secs_f64(), probes: (first, last) }
}

async fn keep_busy(
    port: u16,
    mut notification: Notification,
    begin: Instant,
    end: Instant,
) -> (Latencies, usize) {
    let (mut latencies, mut refused) = (Latencies::default(), 0);
    let mut client = Client::connect(port).await.unwrap();
    loop {
        let sent = Instant::now();
        if sent >= end {
            return (latencies, refused);
        }
        let status = client.exchange(notification.next()).await;
        let answered = Instant::now();
        match status {
            Ok(200) if sent >= begin => latencies.push(answered - sent),
            Ok(200) => {}
            Ok(_) => refused += 1,
            Err(_) => {
                refused += 1;
                client = Client::connect(port).await.unwrap();
            }
        }
    }
}
