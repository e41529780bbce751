//! The probe of the public address before casebridge subscribes.

use std::future::IntoFuture;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use futures_util::future::join_all;
use tokio::net::TcpListener;

use crate::harness::{BEARER, Proxy, Wire, World, free_port, on_both, run_on_sqlite};

const REACHED: &str = "public_url_reached";
const NOT_YET: &str = "public_url_unreachable";
const GIVEN_UP: &str = "public_url_given_up";
const SUBSCRIBED: &str = "subscribed";

on_both! {
    async fn a_deployment_is_known_by_a_random_id_of_its_database(world: World) {
        let mut world = world;
        let first = world.start().await;
        let (status, id) = get(&world, "/healthz/instance").await;
        assert_eq!((status, id.trim().len()), (200, 32));
        first.stop().await;
        // Another token, the same deployment: the id does not depend on the token.
        world.set("NOTIFICATION_BEARER_TOKEN", format!("{BEARER}-after"));
        let second = world.start().await;
        assert_eq!(get(&world, "/healthz/instance").await, (200, id.clone()));
        assert_eq!(get(&world, "/healthz/0123456789abcdef0123456789abcdef").await, (404, String::new()));
        assert_eq!(get(&world, "/healthz").await, (200, "ok".to_owned()));

        second.stop().await;
        let world = world.with_an_empty_database().await;
        let _other = world.start().await;
        let (_, other) = get(&world, "/healthz/instance").await;
        assert_ne!(other, id);
    }
}

#[tokio::test]
async fn an_address_that_leads_here_is_subscribed() {
    run_on_sqlite(|mut world| async move {
        world.set("PUBLIC_URL_PROBE_SECONDS", "60");
        world.set("ROUTE_VIP_LABEL", "VIP");
        let bridge = world.start().await;
        bridge.wait_for_nth("subscribed origin=push", 2).await;
        bridge.assert_order(&[REACHED, SUBSCRIBED]);
        assert_eq!(bridge.count(REACHED), 1, "once for all routes");
        assert_eq!(bridge.count("* level=WARN"), 0, "{}", bridge.log());
    })
    .await;
}

/// Another service at our address.
#[derive(Clone, Copy, Debug)]
enum Other {
    Echo,
    Page,
    NoSuchPage,
    Elsewhere,
}

impl Other {
    fn answer(self, request: &Request) -> Response {
        match self {
            Other::Echo => request.uri().path().trim_start_matches("/healthz/").to_owned().into_response(),
            Other::Page => Html("<!doctype html><title>Welcome</title>").into_response(),
            Other::NoSuchPage => StatusCode::NOT_FOUND.into_response(),
            Other::Elsewhere => Redirect::permanent("https://www.example.com/").into_response(),
        }
    }
}

#[tokio::test]
async fn an_address_that_leads_elsewhere_is_subscribed_late() {
    let others = [
        (Other::Echo, "an answer from something else"),
        (Other::Page, "an answer from something else"),
        (Other::NoSuchPage, "an answer of status 404"),
        (Other::Elsewhere, "an answer of status 308"),
    ];
    join_all(others.map(|(other, answer)| {
        run_on_sqlite(move |mut world| async move {
            let khoros = world.khoros.clone();
            let calls_when_asked = Arc::new(Mutex::new(Vec::new()));
            let calls = calls_when_asked.clone();
            let url = stand_in(move |request| {
                calls.lock().unwrap().push(khoros.model().calls);
                other.answer(&request)
            })
            .await;
            world.set("PUBLIC_URL", url);
            check_it_is_subscribed_late(&mut world, answer).await;
            let calls = calls_when_asked.lock().unwrap();
            assert!(calls.len() > 1 && calls.iter().all(|calls| *calls == 0), "{calls:?}");
        })
    }))
    .await;
}

#[tokio::test]
async fn an_address_without_an_answer_is_subscribed_late() {
    let silences = [
        (None, "refused: nothing listens there"),
        (Some(Wire::Cut), "the connection broke"),
        (Some(Wire::Silent), "no answer in time"),
    ];
    join_all(silences.map(|(wire, answer)| {
        run_on_sqlite(move |mut world| async move {
            let proxy = Proxy::start(([127, 0, 0, 1], free_port()).into()).await;
            if let Some(wire) = wire {
                proxy.set(wire);
            }
            let port = if wire.is_some() { proxy.address.port() } else { free_port() };
            world.set("PUBLIC_URL", format!("http://127.0.0.1:{port}"));
            check_it_is_subscribed_late(&mut world, answer).await;
        })
    }))
    .await;
}

/// The log says where the address comes from, what answered there and what to set.
async fn check_it_is_subscribed_late(world: &mut World, answer: &str) {
    world.set("PUBLIC_URL_PROBE_SECONDS", "1");
    let bridge = world.start_subscribed().await;
    let line = bridge.wait_for(GIVEN_UP).await;
    for part in ["WARN", answer, "heroku config:set PUBLIC_URL="] {
        assert!(line.contains(part), "{part} is not in: {line}");
    }
    bridge.assert_order(&[GIVEN_UP, SUBSCRIBED]);
    assert_eq!(bridge.count(REACHED), 0);
}

/// Some hosts' routers forward requests only some time after we listen.
#[tokio::test]
async fn an_address_may_begin_to_lead_here() {
    run_on_sqlite(|mut world| async move {
        let here = world.url("").trim_start_matches("http://").parse().unwrap();
        let proxy = Proxy::start(here).await;
        proxy.set(Wire::Cut);
        world.unset("PUBLIC_URL");
        world.set("RENDER_EXTERNAL_URL", format!("http://{}", proxy.address));
        world.set("PUBLIC_URL_PROBE_SECONDS", "60");
        let bridge = world.start().await;
        let line = bridge.wait_for(NOT_YET).await;
        for part in ["\"variable\":\"RENDER_EXTERNAL_URL\"", "broke", "heroku config:set PUBLIC_URL="] {
            assert!(line.contains(part), "{part} is not in: {line}");
        }
        assert_eq!(world.khoros.model().calls, 0);
        proxy.set(Wire::Whole);
        bridge.wait_for(SUBSCRIBED).await;
        bridge.assert_order(&[NOT_YET, REACHED, SUBSCRIBED]);
        assert_eq!(bridge.count(GIVEN_UP), 0);
    })
    .await;
}

async fn get(world: &World, path: &str) -> (u16, String) {
    let response = world.http.get(world.url(path)).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

async fn stand_in(answer: impl Fn(Request) -> Response + Clone + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(move |request: Request| async move { answer(request) });
    tokio::spawn(axum::serve(listener, router).into_future());
    url
}
