//! What the stand-in refuses.

use reqwest::StatusCode;
use serde_json::Value;

use super::{ACCOUNT, AUTH_TOKEN, Fault, NUMBER, TRIAL, Twilio};

async fn send(twilio: &Twilio, path: &str, form: &str) -> (StatusCode, Value) {
    let client = crate::http_client().build().unwrap();
    let request = client.post(format!("{}{path}", twilio.url())).basic_auth(ACCOUNT, Some(AUTH_TOKEN));
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(form.to_owned());
    let answer = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

fn messages() -> String {
    format!("/2010-04-01/Accounts/{ACCOUNT}/Messages.json")
}

#[tokio::test]
async fn it_checks_a_message_as_twilio_does() {
    let twilio = Twilio::start().await.unwrap();
    twilio.model().refused.insert("+15551230199".to_owned(), (400, 21610));
    let from = "From=%2B15550000002";
    for (form, code) in [
        ("Body=x".to_owned(), 20001),
        (format!("To=5551230147&{from}&Body=x"), 21211),
        ("To=%2B15551230147&Body=x".to_owned(), 21603),
        (format!("To=%2B15551230147&{from}"), 21602),
        (format!("To=%2B15551230147&{from}&Body={}", "x".repeat(1601)), 21617),
        (format!("To=%2B15551230147&{from}&Body=x&ValidityPeriod=40000"), 20001),
        (format!("To=%2B15551230147&{from}&Body=x&Text=y"), 20001),
        (format!("To=%2B15551230199&{from}&Body=x"), 21610),
    ] {
        let (status, body) = send(&twilio, &messages(), &form).await;
        assert_eq!((status, &body["code"]), (StatusCode::BAD_REQUEST, &Value::from(code)), "{form:.80}");
    }
    assert!(twilio.model().messages.is_empty());
}

#[tokio::test]
async fn it_lists_the_newest_messages_first_and_in_pages() {
    let twilio = Twilio::start().await.unwrap();
    twilio.model().is_trial = true;
    for number in 0..5 {
        let form = format!("To=%2B15551230147&From=%2B15550000002&Body=text+{number}");
        assert_eq!(send(&twilio, &messages(), &form).await.0, StatusCode::CREATED);
    }
    let client = crate::http_client().build().unwrap();
    let mut next = format!("{}?To=%2B15551230147&PageSize=2", messages());
    let mut bodies = Vec::new();
    loop {
        let request = client.get(format!("{}{next}", twilio.url())).basic_auth(ACCOUNT, Some(AUTH_TOKEN));
        let page: Value = request.send().await.unwrap().json().await.unwrap();
        let found = page["messages"].as_array().unwrap();
        bodies.extend(found.iter().map(|message| message["body"].as_str().unwrap().to_owned()));
        match page["next_page_uri"].as_str() {
            Some(uri) => uri.clone_into(&mut next),
            None => break,
        }
    }
    let expected: Vec<String> = (0..5).rev().map(|number| format!("{TRIAL}text {number}")).collect();
    assert_eq!(bodies, expected);
}

#[tokio::test]
async fn it_checks_the_requests_of_flex() {
    let twilio = Twilio::start().await.unwrap();
    for (path, form) in [
        ("/v1/Interactions", "Routing=%7B%7D"),
        ("/v1/Interactions", "Channel=%7B%22type%22%3A%22sms%22%7D"),
        ("/v1/FlexFlows", "FriendlyName=x"),
        ("/v1/Channels", "FlexFlowSid=FO0&Identity=x&ChatUserFriendlyName=x&ChatFriendlyName=x"),
    ] {
        assert_eq!(send(&twilio, path, form).await.0, StatusCode::BAD_REQUEST, "{path}");
    }
    let unknown = format!("/v1/Conversations/CH{}/Messages", "0".repeat(32));
    assert_eq!(send(&twilio, &unknown, "Body=x").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn it_refuses_a_wrong_token_and_fails_when_asked() {
    let twilio = Twilio::start().await.unwrap();
    let client = crate::http_client().build().unwrap();
    let url = format!("{}{}", twilio.url(), messages());
    let form = format!("To=%2B15551230147&From={}&Body=x", NUMBER.replace('+', "%2B"));
    let request =
        || client.post(&url).header("content-type", "application/x-www-form-urlencoded").body(form.clone());
    let answer = request().basic_auth(ACCOUNT, Some("wrong")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    twilio.queue([Fault::ResetAfter]);
    assert!(request().basic_auth(ACCOUNT, Some(AUTH_TOKEN)).send().await.is_err());
    assert_eq!(twilio.model().messages.len(), 1);
}
