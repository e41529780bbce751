//! The HTTP edge under hostility, and the stop under load.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::harness::{BEARER, World, event, on_both, run_on_sqlite};

async fn connect(world: &World) -> TcpStream {
    TcpStream::connect(world.url("").trim_start_matches("http://")).await.unwrap()
}

/// Reads until the service closes the connection.
async fn all_of(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is one way of hanging up.
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn slow_clients_are_disconnected_and_others_are_served() {
    run_on_sqlite(|mut world| async move {
        world.set("HTTP_IDLE_SECONDS", "10");
        let bridge = world.start().await;
        let mut slow_headers = Vec::new();
        for _ in 0..500 {
            let mut stream = connect(&world).await;
            stream.write_all(b"POST /khoros/label HTTP/1.1\r\nhost: x\r\nauthoriz").await.unwrap();
            slow_headers.push(stream);
        }
        let mut idle = Vec::new();
        for _ in 0..500 {
            idle.push(connect(&world).await);
        }
        let mut slow_body = connect(&world).await;
        let head = format!(
            "POST /khoros/label HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {BEARER}\r\ncontent-length: 9\r\n\r\n{{"
        );
        slow_body.write_all(head.as_bytes()).await.unwrap();

        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done").await;

        assert!(all_of(slow_body).await.starts_with("HTTP/1.1 408"));
        // None of them is kept for ever: each read comes to an end.
        join_all(slow_headers.into_iter().chain(idle).map(all_of)).await;
    })
    .await;
}

/// Proxies keep connections open between two notifications, and lose the one that meets a close.
#[tokio::test]
async fn an_idle_connection_outlives_an_incomplete_head() {
    run_on_sqlite(|world| async move {
        let _bridge = world.start().await;
        let (mut used, mut unused) = (connect(&world).await, connect(&world).await);
        ask(&mut used).await;
        let mut incomplete = connect(&world).await;
        incomplete.write_all(b"POST /khoros/label HTTP/1.1\r\nhost: x\r\n").await.unwrap();
        // The first request of this one was complete.
        let mut second_incomplete = connect(&world).await;
        ask(&mut second_incomplete).await;
        second_incomplete.write_all(b"G").await.unwrap();
        assert_eq!(all_of(incomplete).await, "");
        assert_eq!(all_of(second_incomplete).await, "");
        ask(&mut used).await;
        ask(&mut unused).await;
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_configured_time() {
    run_on_sqlite(|mut world| async move {
        world.set("HTTP_IDLE_SECONDS", "1");
        let _bridge = world.start().await;
        let (mut used, unused) = (connect(&world).await, connect(&world).await);
        ask(&mut used).await;
        assert_eq!((all_of(used).await, all_of(unused).await), (String::new(), String::new()));
    })
    .await;
}

#[tokio::test]
async fn a_head_of_more_than_32_kib_is_refused() {
    run_on_sqlite(|world| async move {
        let _bridge = world.start().await;
        let start = "GET /healthz HTTP/1.1\r\nconnection: close\r\nx: ";
        let head = |bytes: usize, end: &str| format!("{start}{}{end}", "x".repeat(bytes - start.len()));
        for (head, status) in
            [(head((32 << 10) - 10, "\r\n\r\n"), "HTTP/1.1 200"), (head(32 << 10, ""), "HTTP/1.1 431")]
        {
            let mut stream = connect(&world).await;
            stream.write_all(head.as_bytes()).await.unwrap();
            let answer = all_of(stream).await;
            assert!(answer.starts_with(status), "{} bytes: {answer}", head.len());
        }
    })
    .await;
}

/// Clients that send nothing, that send one request and stay, or that never end a head come again when they
/// are disconnected; others send 400 kB of a head.
#[tokio::test]
async fn two_thousand_hostile_connections_cost_little_memory_and_no_push() {
    const STRANGERS: usize = 2800;
    rlimit::increase_nofile_limit(8192).unwrap();
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        let address = world.url("").trim_start_matches("http://").to_owned();
        let begun = Arc::new(Semaphore::new(0));
        let _strangers: JoinSet<()> = (0..STRANGERS)
            .map(|number| {
                let (address, begun) = (address.clone(), begun.clone());
                async move {
                    // Refused at once, these would only keep this machine busy.
                    let comes_again = number % 4 != 3;
                    loop {
                        let stay = begun.clone();
                        let _ = hostile_client(&address, number, move || stay.add_permits(1)).await;
                        if !comes_again {
                            break;
                        }
                    }
                }
            })
            .collect();
        let _all = begun.acquire_many(STRANGERS as u32).await.unwrap();
        let http = casebridge_sandbox::http_client().pool_max_idle_per_host(0).build().unwrap();
        for number in 0..20 {
            let push = http.post(world.url("/khoros/label")).bearer_auth(BEARER);
            let push = push.body(event(&format!("event-{number}"), &number.to_string()));
            assert_eq!(push.send().await.unwrap().status(), 200);
        }
        world.tickets(20).await;
        let peak = bridge.peak_memory();
        assert!(peak < 200 << 20, "{} MiB", peak >> 20);
    })
    .await;
}

/// Connects, does harm, and stays until it is disconnected.
async fn hostile_client(address: &str, number: usize, has_begun: impl FnOnce()) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let head = match number % 4 {
        0 => String::new(),
        1 => "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        2 => format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(30 << 10)),
        _ => format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(400_000)),
    };
    let written = stream.write_all(head.as_bytes()).await;
    has_begun();
    written?;
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

async fn ask(stream: &mut TcpStream) {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nok") {
        let read = stream.read_buf(&mut answer).await.unwrap();
        assert!(read > 0, "disconnected after {}", String::from_utf8_lossy(&answer));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn a_client_that_reads_no_answer_is_disconnected() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        let mut deaf = connect(&world).await;
        // Until nothing more goes in: all buffers are full of answers that nobody reads. The write
        // ends with an error, since casebridge closes the connection.
        let request = "GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
        while deaf.write_all(request.as_bytes()).await.is_ok() {}
        assert_eq!(bridge.stop().await.code(), Some(0));
    })
    .await;
}

#[tokio::test]
async fn a_client_that_never_ends_does_not_delay_the_stop() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        let _idle = connect(&world).await;
        let mut kept_alive = connect(&world).await;
        kept_alive.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut status = [0; 15];
        kept_alive.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200 OK");
        assert_eq!(bridge.stop().await.code(), Some(0));
    })
    .await;
}

on_both! {
    async fn a_stop_under_load_loses_nothing_acknowledged(world: World) {
        let bridge = world.start().await;
        let sending = (0..400).map(|n| {
            let world = &world;
            async move {
                let (event_id, post) = (format!("event-{n}"), n.to_string());
                let request = world.http.post(world.url("/khoros/label")).bearer_auth(BEARER);
                let answer = request.body(event(&event_id, &post)).send().await;
                answer.is_ok_and(|answer| answer.status() == 200).then(|| format!("khoros:1234:{event_id}:twitter:{post}"))
            }
        });
        let stop = async {
            bridge.wait_for_lines(100).await;
            bridge.stop().await
        };
        let (acknowledged, status) = tokio::join!(join_all(sending), stop);
        assert_eq!(status.code(), Some(0));
        let listed = world.list().await;
        let acknowledged: Vec<String> = acknowledged.into_iter().flatten().collect();
        assert!(!acknowledged.is_empty());
        for identity in acknowledged {
            assert!(listed.iter().any(|delivery| delivery["id"] == identity.as_str()), "lost: {identity}");
        }
    }
}
