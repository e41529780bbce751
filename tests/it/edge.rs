//! The HTTP edge under hostility, and the stop under load.

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{BEARER, World, event, on_both, run_on_sqlite};

async fn connect(world: &World) -> TcpStream {
    TcpStream::connect(world.url("").trim_start_matches("http://")).await.unwrap()
}

/// Reads until the other side hangs up.
async fn all_of(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is one way of hanging up.
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn slow_visitors_are_shown_out_and_the_others_served() {
    run_on_sqlite(|world| async move {
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
        bridge.wait_for_log(" is ticket ").await;

        assert!(all_of(slow_body).await.starts_with("HTTP/1.1 408"));
        // None of them is kept for ever: each read comes to an end.
        join_all(slow_headers.into_iter().chain(idle).map(all_of)).await;
    })
    .await;
}

#[tokio::test]
async fn who_asks_and_does_not_listen_is_hung_up_on() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        let mut deaf = connect(&world).await;
        // Until nothing more goes in: all buffers are full of answers that nobody reads. The write
        // ends with an error, since the bridge hangs up.
        let request = "GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
        while deaf.write_all(request.as_bytes()).await.is_ok() {}
        assert_eq!(bridge.stop().await.code(), Some(0));
    })
    .await;
}

#[tokio::test]
async fn a_visitor_that_never_ends_does_not_hold_up_the_stop() {
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
    async fn stopped_under_load_it_has_what_it_acknowledged(world: World) {
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
