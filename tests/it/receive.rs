//! Which requests the endpoints accept, and how they answer the others.

use std::io::Read;

use flate2::Compression;
use flate2::read::{DeflateEncoder, GzEncoder, ZlibEncoder};
use futures_util::future::{join_all, select_all};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, SqliteConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{
    ADMIN, BEARER, Cluster, Kind, PRIVATE, World, event, event_with, on_both, run_on_sqlite,
};

#[tokio::test]
async fn without_a_valid_bearer_nothing_is_read() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        let url = world.url("/khoros/label");
        for authorization in ["", "Bearer", "Bearer wrong-token-wrong-token", "Basic dXNlcjpwYXNz", BEARER] {
            let request = world.http.post(&url).header("authorization", authorization);
            let response = request.body(event("event-1", "1")).send().await.unwrap();
            assert_eq!(response.status(), 401, "{authorization}");
            assert_eq!(response.headers()["www-authenticate"], "Bearer");
        }
        // A body that is announced and never comes is not waited for.
        let mut stream =
            TcpStream::connect(url.trim_start_matches("http://").split('/').next().unwrap()).await.unwrap();
        let head = "POST /khoros/label HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 401");

        assert!(world.list().await.is_empty());
        bridge.wait_for("bearer_token_refused").await;
        assert_eq!(bridge.count("bearer_token_refused"), 1);
    })
    .await;
}

#[tokio::test]
async fn an_invalid_notification_gets_a_reason() {
    run_on_sqlite(|world| async move {
        let _bridge = world.start().await;
        let status = async |request: reqwest::RequestBuilder| {
            request.bearer_auth(BEARER).send().await.unwrap().status()
        };
        let (label, http) = (world.url("/khoros/label"), &world.http);
        assert_eq!(status(http.post(world.url("/khoros/other")).body("{}")).await, 404);
        assert_eq!(status(http.get(&label)).await, 405);
        for body in ["", "{", "<xml/>", "{}{}"] {
            assert_eq!(status(http.post(&label).body(body)).await, 400, "{body}");
        }
        let large = format!("\"{}\"", "x".repeat(2 << 20));
        assert_eq!(status(http.post(&label).body(large)).await, 413);

        let endless = http.post(&label).body(reqwest::Body::from("x".repeat(6 << 20)));
        assert_eq!(status(endless).await, 413);
        assert!(world.list().await.is_empty());

        let just_right = json!({"data": {"items": [{"text": "x".repeat((2 << 20) - 100)}]}}).to_string();
        assert_eq!(status(http.post(&label).body(just_right)).await, 200);
    })
    .await;
}

#[tokio::test]
async fn a_body_that_grows_without_end_is_cut_off() {
    run_on_sqlite(|world| async move {
        let _bridge = world.start().await;
        let address = world.url("").trim_start_matches("http://").to_owned();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /khoros/label HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {BEARER}\r\n\
             transfer-encoding: chunked\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        for _ in 0..400 {
            // The service may have closed the connection already, as it should.
            if stream.write_all(chunk.as_bytes()).await.is_err() {
                break;
            }
        }
        let mut status = [0; 12];
        if stream.read_exact(&mut status).await.is_ok() {
            assert_eq!(&status, b"HTTP/1.1 413");
        }
        assert_eq!(world.http.get(world.url("/healthz")).send().await.unwrap().status(), 200);
        assert!(world.list().await.is_empty());
    })
    .await;
}

on_both! {
    async fn unprocessable_bodies_are_stored(world: World) {
        let _bridge = world.start().await;
        let nested = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        let bodies = [
            "null", "7", "\"text\"", "[]", "{}", &nested,
            r#"{"data":{"items":{"text":"an object"}}}"#,
            r#"{"eventUuid":1,"companyId":"x","data":{"labels":"L","items":[{"entityId":2,"text":null,"notes":"n"}]}}"#,
            r#"{"eventName":"a\u0000b","eventUuid":"\u0000","data":{"items":[{"entityId":"\u0000","text":"\u0000"}]}}"#,
            r#"{"eventName":"cut","data":{"items":[{"text":"\ud83d"}]}}"#,
        ];
        for body in bodies {
            assert_eq!(world.notify(body).await, json!({"received": 1, "new": 1}), "{body}");
            assert_eq!(world.notify(body).await, json!({"received": 1, "new": 0}), "{body}");
        }
        assert_eq!(world.list().await.len(), bodies.len());
        world.tickets(4).await;
    }

    async fn a_notification_that_cannot_be_stored_is_not_acknowledged(world: World) {
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done").await;

        let outage = Outage::begin(&world).await;
        let response = world.post(event("event-2", "2")).await;
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"));
        if world.database.kind == Kind::Postgres {
            // A locked SQLite file can still be read.
            let ready = world.http.get(world.url("/readyz")).send().await.unwrap();
            assert_eq!((ready.status().as_u16(), ready.text().await.unwrap()), (503, r#"{"ready":false}"#.into()));
        }
        outage.end().await;

        world.notify(&event("event-2", "2")).await;
        bridge.wait_for_nth("delivery_done", 2).await;
        world.check_one_ticket_per_case().await;
        bridge.wait_for("storage_failed alert=storage").await;
    }
}

#[tokio::test]
async fn a_push_to_a_full_queue_is_refused_at_once() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        let outage = Outage::begin(&world).await;
        let text = "x".repeat(2_000_000);
        let notification = |n| json!({"eventUuid": format!("e{n}"), "data": {"items": [{"text": text}]}});
        let sending = (0..24).map(|n| Box::pin(world.post(notification(n).to_string())));
        let (refused, _, others) = select_all(sending).await;
        assert_eq!(refused.status(), 503);
        assert!(refused.headers().contains_key("retry-after"));
        bridge.wait_for("storage_failed origin=push").await;

        outage.end().await;
        let others = join_all(others).await;
        let stored = others.iter().filter(|answer| answer.status() == 200).count();
        assert!(stored > 0);
        // A request that waited for too long got an error, and may have been stored a moment later.
        assert!(world.list().await.len() >= stored);
    })
    .await;
}

/// A database that accepts no writes for a while.
enum Outage {
    Sqlite(SqliteConnection),
    Postgres(String),
}

impl Outage {
    async fn begin(world: &World) -> Outage {
        match world.database.kind {
            Kind::Sqlite => {
                let mut connection = SqliteConnection::connect(&world.database.url).await.unwrap();
                connection.execute("begin immediate").await.unwrap();
                Outage::Sqlite(connection)
            }
            Kind::Postgres => {
                let name = world.database.url.rsplit('/').next().unwrap().to_owned();
                let cluster = Cluster::get().unwrap();
                cluster.execute(&format!("alter database {name} with allow_connections false")).await;
                let all = format!(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
                );
                cluster.execute(&all).await;
                Outage::Postgres(name)
            }
        }
    }

    async fn end(self) {
        match self {
            Outage::Sqlite(mut connection) => {
                connection.execute("rollback").await.unwrap();
            }
            Outage::Postgres(name) => {
                let sql = format!("alter database {name} with allow_connections true");
                Cluster::get().unwrap().execute(&sql).await;
            }
        }
    }
}

#[tokio::test]
async fn the_path_of_the_2017_example_still_works() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        let request = world.http.post(world.url("/createTicket")).bearer_auth(BEARER);
        let response = request.body(event("event-1", "1")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.json::<Value>().await.unwrap(), json!({"received": 1, "new": 1}));
        bridge.wait_for("delivery_done").await;
    })
    .await;
}

#[tokio::test]
async fn a_path_may_end_with_a_slash_and_that_of_2017_has_two_cases() {
    run_on_sqlite(|world| async move {
        let _bridge = world.start().await;
        for (number, path) in
            ["/khoros/label/", "/createTicket", "/createTicket/", "/createticket", "/createticket/"]
                .iter()
                .enumerate()
        {
            let request = world.http.post(world.url(path)).bearer_auth(BEARER);
            let response = request.body(event(&format!("event-{number}"), "1")).send().await.unwrap();
            assert_eq!(response.status(), 200, "{path}");
        }
    })
    .await;
}

/// Each refusal loses a label.
#[tokio::test]
async fn a_refused_notification_leaves_a_line_and_a_count() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        let (label, http) = (world.url("/khoros/label"), &world.http);
        let post = |path: &str| http.post(world.url(path)).body(event("event-1", "1"));
        let status = async |request: reqwest::RequestBuilder| {
            request.bearer_auth(BEARER).send().await.unwrap().status().as_u16()
        };
        for _ in 0..3 {
            assert_eq!(status(post("/khoros/lable")).await, 404);
        }
        assert_eq!(status(http.put(&label)).await, 405);
        assert_eq!(status(http.post(&label).body("no JSON")).await, 400);
        assert_eq!(status(http.post(&label).body(" ".repeat(3 << 20))).await, 413);
        assert_eq!(status(post("/khoros/label").header("content-encoding", "br")).await, 415);
        let mut slow = TcpStream::connect(world.url("").trim_start_matches("http://")).await.unwrap();
        let head = format!("POST /khoros/label HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {BEARER}\r\n");
        slow.write_all(format!("{head}content-length: 9\r\n\r\n").as_bytes()).await.unwrap();
        // Strangers cause neither.
        assert_eq!(post("/khoros/lable").send().await.unwrap().status(), 404);
        for status in [404, 405, 400, 413, 415, 408] {
            let line = bridge.wait_for(&format!("notification_refused level=WARN status={status}")).await;
            assert!(line.contains("\"count\":1"), "{line}");
        }
        assert_eq!(bridge.count("notification_refused status=404"), 1, "{}", bridge.log());
        bridge.wait_for("notification_refused status=404 path=/khoros/lable").await;

        let status = http.get(world.url("/status")).bearer_auth(ADMIN).send().await.unwrap();
        let status: Value = status.json().await.unwrap();
        let counts = json!({"400": 1, "404": 3, "405": 1, "408": 1, "413": 1, "415": 1});
        assert_eq!(status["refused_notifications"], counts);
    })
    .await;
}

#[tokio::test]
async fn a_compressed_body_is_inflated_under_the_same_limit() {
    run_on_sqlite(|world| async move {
        let _bridge = world.start().await;
        let send = async |encoding: &str, body: Vec<u8>| {
            let request = world.http.post(world.url("/khoros/label")).bearer_auth(BEARER);
            request.header("content-encoding", encoding).body(body).send().await.unwrap()
        };
        let fast = Compression::fast();
        let gzip = |text: &str| all(GzEncoder::new(text.as_bytes(), fast));
        let zlib = |text: &str| all(ZlibEncoder::new(text.as_bytes(), fast));
        let bare = |text: &str| all(DeflateEncoder::new(text.as_bytes(), fast));
        let text = |number| event(&format!("event-{number}"), &format!("{number}"));
        // Large even when it is compressed.
        let digits: String = (0..20_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_string()).collect();
        let long = event_with("event-7", "7", |item| item["text"] = json!(digits));
        assert!(gzip(&long).len() > 64 << 10);
        for (encoding, body) in [
            ("gzip", gzip(&text(1))),
            ("X-GZIP", gzip(&text(2))),
            ("deflate", zlib(&text(3))),
            ("deflate", bare(&text(4))),
            ("identity", text(5).into_bytes()),
            ("gzip", gzip(&long)),
        ] {
            let response = send(encoding, body).await;
            assert_eq!(response.status(), 200, "{encoding}");
            assert_eq!(response.json::<Value>().await.unwrap(), json!({"received": 1, "new": 1}));
        }
        let bomb = " ".repeat(100 << 20);
        for (encoding, body, status) in [
            ("gzip", gzip(&bomb), 413),
            ("deflate", zlib(&bomb), 413),
            ("gzip", text(6).into_bytes(), 400),
            ("gzip", gzip(&text(6))[..100].to_vec(), 400),
            ("deflate", text(6).into_bytes(), 400),
            ("br", text(6).into_bytes(), 415),
            ("gzip, gzip", gzip(&text(6)), 415),
        ] {
            let response = send(encoding, body).await;
            assert_eq!(response.status(), status, "{encoding}");
            let accepted = response.headers().get("accept-encoding").map(|value| value.to_str().unwrap());
            assert_eq!(accepted, (status == 415).then_some("gzip, deflate"));
        }
        assert_eq!(world.list().await.len(), 6);
    })
    .await;
}

fn all(mut encoder: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    encoder.read_to_end(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn it_listens_on_ipv6_and_ipv4() {
    run_on_sqlite(|mut world| async move {
        let ipv4 = world.url("/healthz");
        let ipv6 = ipv4.replace("127.0.0.1", "[::1]");
        let answers = async |url: &str| world.http.get(url).send().await.is_ok();
        let bridge = world.start().await;
        assert!(answers(&ipv4).await && answers(&ipv6).await);
        bridge.stop().await;
        for (listen, on_ipv4, on_ipv6) in
            [("0.0.0.0", true, false), ("127.0.0.1", true, false), ("[::1]", false, true), ("::", true, true)]
        {
            world.set("LISTEN", listen);
            let bridge = world.start().await;
            let answers = async |url: &str| world.http.get(url).send().await.is_ok();
            assert_eq!((answers(&ipv4).await, answers(&ipv6).await), (on_ipv4, on_ipv6), "{listen}");
            bridge.stop().await;
        }
    })
    .await;
}

#[tokio::test]
async fn health_is_public_and_the_status_is_for_the_operator() {
    run_on_sqlite(|world| async move {
        let bridge = world.start_subscribed().await;
        bridge.wait_for("destination_ready").await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done").await;
        let get = async |path: &str| world.http.get(world.url(path)).send().await.unwrap();
        assert_eq!(get("/healthz").await.status(), 200);
        assert_eq!(get("/readyz").await.json::<Value>().await.unwrap(), json!({"ready": true}));
        assert_eq!(get("/status").await.status(), 401);
        assert_eq!(get("/").await.status(), 200);

        let request = world.http.get(world.url("/status"));
        assert_eq!(request.try_clone().unwrap().bearer_auth(BEARER).send().await.unwrap().status(), 401);
        let text = request.bearer_auth(ADMIN).send().await.unwrap().text().await.unwrap();
        assert!(!text.contains(PRIVATE));
        let status: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status["storage"], json!({"kind": "sqlite", "ready": true}));
        assert_eq!(status["subscriptions"]["label"]["state"], "subscribed");
        assert_eq!(status["destinations"]["zendesk"]["state"], "ok");
        assert_eq!(
            (&status["deliveries"]["waiting"], &status["deliveries"]["done_24h"]),
            (&json!(0), &json!(1))
        );
    })
    .await;
}

#[tokio::test]
async fn without_an_admin_token_there_is_no_status() {
    run_on_sqlite(|mut world| async move {
        world.unset("ADMIN_TOKEN");
        let _bridge = world.start().await;
        let response = world.http.get(world.url("/status")).bearer_auth(ADMIN).send().await.unwrap();
        assert_eq!(response.status(), 404);
    })
    .await;
}
