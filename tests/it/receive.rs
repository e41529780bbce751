//! What the doors let in, and what they say to the rest.

use futures_util::future::{join_all, select_all};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, SqliteConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{ADMIN, BEARER, Cluster, Kind, PRIVATE, World, event, on_both, run_on_sqlite};

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
        bridge.wait_for_log("without a valid bearer token").await;
        assert_eq!(bridge.log().matches("without a valid bearer token").count(), 1);
    })
    .await;
}

#[tokio::test]
async fn what_is_no_notification_is_told_why() {
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
            // The other side may have hung up already: that is what is wanted.
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
    async fn odd_bodies_are_kept(world: World) {
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

    async fn what_cannot_be_stored_is_not_acknowledged(world: World) {
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for_log(" is ticket ").await;

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
        bridge.wait_for_logs(" is ticket ", 2).await;
        world.check_one_ticket_per_case().await;
        bridge.wait_for_log("alert=\"storage\"").await;
    }
}

#[tokio::test]
async fn who_finds_the_queue_full_is_turned_away_at_once() {
    run_on_sqlite(|world| async move {
        let bridge = world.start().await;
        let outage = Outage::begin(&world).await;
        let text = "x".repeat(2_000_000);
        let notification = |n| json!({"eventUuid": format!("e{n}"), "data": {"items": [{"text": text}]}});
        let sending = (0..24).map(|n| Box::pin(world.post(notification(n).to_string())));
        let (refused, _, others) = select_all(sending).await;
        assert_eq!(refused.status(), 503);
        assert!(refused.headers().contains_key("retry-after"));
        bridge.wait_for_log("too much is waiting to be stored").await;

        outage.end().await;
        let others = join_all(others).await;
        let taken = others.iter().filter(|answer| answer.status() == 200).count();
        assert!(taken > 0);
        // Who waited for too long was told so, and may have been stored a moment later.
        assert!(world.list().await.len() >= taken);
    })
    .await;
}

/// A database that does not take anything, for a while.
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
        bridge.wait_for_log(" is ticket ").await;
    })
    .await;
}

#[tokio::test]
async fn health_is_told_to_all_and_the_rest_to_the_operator() {
    run_on_sqlite(|world| async move {
        let bridge = world.start_subscribed().await;
        bridge.wait_for_log("the Zendesk credential works").await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for_log(" is ticket ").await;
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
        assert_eq!(status["lanes"]["zendesk"]["state"], "ok");
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
