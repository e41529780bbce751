//! The answers to requests for an OAuth token: forms that differ from Zendesk's published example.

use std::collections::BTreeSet;
use std::future::IntoFuture;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::{event, run_on_sqlite};

#[tokio::test]
async fn unusual_oauth_answers_still_give_a_token() {
    run_on_sqlite(|mut world| async move {
        let zendesk = world.zendesk.url();
        let answers = [
            json!({"scope": "tickets:write users:write read", "expires_in": "1800"}),
            json!({"scope": ["tickets:write", "users:write", "read"], "expires_in": 1800.5}),
            json!({"expires_in": -1}),
            json!({"expires_in": 1e18}),
            json!({"expires_in": u64::MAX}),
        ];
        for (number, answer) in answers.into_iter().enumerate() {
            world.set("ZENDESK_API_URL", front(&zendesk, answer.clone()).await);
            let bridge = world.start().await;
            bridge.wait_for("destination_ready").await;
            world.notify(&event(&format!("event-{number}"), &number.to_string())).await;
            world.tickets(number + 1).await;
            assert_eq!(bridge.count("token_scope_missing"), 0, "{answer}: {}", bridge.log());
            assert_eq!(bridge.stop().await.code(), Some(0), "{answer}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_scope_for_users_is_requested_only_if_a_route_needs_them() {
    run_on_sqlite(|mut world| async move {
        world.zendesk.model().scopes = BTreeSet::from(["tickets:write", "tickets:read", "read"]);
        world.set("TICKET_REQUESTER", "service");
        // It needs no users: it goes nowhere near Zendesk.
        let _webhook = world.with_webhook().await;
        world.set("ROUTE_REPORTS_EVENT", "message-published");
        world.set("ROUTE_REPORTS_TO", "webhook");
        world.set("ROUTE_REPORTS_TICKET_REQUESTER", "author");
        let bridge = world.start().await;
        bridge.wait_for("destination_ready destination=zendesk").await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done ticket=1000").await;
        assert_eq!(bridge.count("token_scope_narrow") + bridge.count("token_scope_missing"), 0);
        let output = world.command_with_settings(&["check", "--json"]).await;
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let rows = report["rows"].as_array().unwrap();
        let credential = rows.iter().find(|row| row["name"] == "zendesk credential").unwrap();
        assert_eq!(credential["mark"], "ok", "{credential}");
        bridge.stop().await;

        world.set("ROUTE_VIP_LABEL", "VIP");
        world.set("ROUTE_VIP_TICKET_REQUESTER", "author");
        world.start().await.wait_for("token_scope_narrow").await;
    })
    .await;
}

/// Starts a proxy of Zendesk's stand-in that replaces the fields around each OAuth token by those of `answer`.
async fn front(zendesk: &str, answer: Value) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(forward).with_state((zendesk.to_owned(), answer));
    tokio::spawn(axum::serve(listener, router).into_future());
    url
}

async fn forward(State((zendesk, mut answer)): State<(String, Value)>, request: Request) -> Response {
    let is_mint = request.uri().path() == "/oauth/tokens";
    let url = format!("{zendesk}{}", request.uri());
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let http = casebridge_sandbox::http_client().build().unwrap();
    let reply = http.request(head.method, url).headers(head.headers).body(body).send().await.unwrap();
    let mut response = Response::builder().status(reply.status());
    for (name, value) in reply.headers().iter().filter(|(name, _)| *name != "content-length") {
        response = response.header(name, value);
    }
    let mut bytes = reply.bytes().await.unwrap().to_vec();
    if is_mint {
        let minted: Value = serde_json::from_slice(&bytes).unwrap();
        answer["access_token"] = minted["access_token"].clone();
        bytes = answer.to_string().into_bytes();
    }
    response.body(Body::from(bytes)).unwrap()
}
