//! Wrong settings, and how the service reports them.

use std::process::Command;

use casebridge_sandbox::zendesk;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::{Kind, World, event, free_port, on_both, run, run_on_sqlite};

#[tokio::test]
async fn a_misspelt_name_gets_a_warning() {
    run_on_sqlite(|mut world| async move {
        world.set("RETENTION_DAY", "7");
        world.set("ADMIN_TOKN", "0123456789abcdef01234567");
        world.set("HEROKU_APP_NAMES", "x");
        let bridge = world.start().await;
        let warnings = [
            bridge.wait_for("setting_warning level=WARN").await,
            bridge.wait_for_nth("setting_warning level=WARN", 2).await,
        ];
        for names in [["RETENTION_DAY ", "RETENTION_DAYS"], ["ADMIN_TOKN ", "ADMIN_TOKEN"]] {
            let is_named = |warning: &String| names.iter().all(|name| warning.contains(name));
            assert!(warnings.iter().any(is_named), "{names:?}: {warnings:?}");
        }
        assert_eq!(bridge.count("setting_warning"), 2);
    })
    .await;
}

#[tokio::test]
async fn a_wrong_name_of_a_route_stops_the_start() {
    run_on_sqlite(|mut world| async move {
        for name in ["ROUTE_VIP_2_LABEL", "ROUTE_VIP-2_LABEL", "ROUTE_VIP_LABLE"] {
            world.set(name, "VIP");
            let (status, log) = world.spawn().end_with_log().await;
            assert_eq!(status.code(), Some(2), "{log}");
            assert!(log.contains(&format!("{name} is not a route setting")), "{log}");
            world.unset(name);
        }
    })
    .await;
}

/// Operators look for the errors of a start in the log.
#[tokio::test]
async fn a_start_that_fails_is_logged_in_the_configured_format_with_an_alert() {
    run_on_sqlite(|mut world| async move {
        let vars = world.vars.clone();
        let port = world.vars["PORT"].clone();
        let _taken = std::net::TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
        for (name, value, alert, code) in [
            ("SPREDFAST_COMPANY_ID", "acme", "configuration", 2),
            ("DATABASE_URL", "sqlite:///no/such/folder/a.db", "storage", 2),
            ("LISTEN", "127.0.0.1", "start", 1),
        ] {
            world.set(name, value);
            world.set("LOG_FORMAT", "json");
            let (status, log) = world.spawn().end_with_log().await;
            assert_eq!(status.code(), Some(code), "{log}");
            let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let errors: Vec<Value> = lines.filter(|line| line["level"] == "ERROR").collect();
            assert_eq!((errors.len(), &errors[0]["alert"]), (1, &json!(alert)), "{log}");
            world.vars = vars.clone();
        }
        world.unset("SPREDFAST_COMPANY_ID");
        world.unset("ZENDESK_API_URL");
        world.set("LOG_FORMAT", "logfmt");
        let (_, log) = world.spawn().end_with_log().await;
        assert_eq!(log.matches("alert=configuration").count(), 2, "one line for each problem: {log}");
    })
    .await;
}

on_both! {
    async fn a_start_logs_deliveries_of_an_earlier_run(world: World) {
        world.zendesk.stop();
        let bridge = world.start().await;
        for number in 0..3 {
            world.notify(&event(&format!("event-{number}"), &number.to_string())).await;
        }
        assert_eq!(bridge.count("backlog_found"), 0);
        bridge.stop().await;
        let bridge = world.start().await;
        bridge.wait_for("backlog_found level=INFO waiting=3 oldest_s=*").await;
    }
}

#[tokio::test]
async fn a_refused_zendesk_credential_is_logged_with_what_to_do() {
    run_on_sqlite(|mut world| async move {
        let variables = ["ZENDESK_OAUTH_CLIENT_SECRET", "ZENDESK_API_TOKEN", "Admin Center"];
        world.set("ZENDESK_OAUTH_CLIENT_SECRET", "another-secret");
        let bridge = world.start().await;
        let line = bridge.wait_for("destination_paused level=ERROR alert=zendesk_credential").await;
        assert!(variables.iter().all(|word| line.contains(word)), "{line}");
        bridge.stop().await;

        world.unset("ZENDESK_OAUTH_CLIENT_ID");
        world.unset("ZENDESK_OAUTH_CLIENT_SECRET");
        world.set("ZENDESK_USER_EMAIL", zendesk::USER_EMAIL);
        world.set("ZENDESK_API_TOKEN", "another-token");
        let bridge = world.start().await;
        let line = bridge.wait_for("destination_paused level=ERROR alert=zendesk_credential").await;
        assert!(variables.iter().all(|word| line.contains(word)), "{line}");
    })
    .await;
}

#[tokio::test]
async fn a_failed_connection_is_logged_with_its_reason() {
    run_on_sqlite(|mut world| async move {
        let plain = world.zendesk.url().replace("http://", "https://");
        for (url, reason) in [
            (format!("http://127.0.0.1:{}", free_port()), "refused"),
            (plain, "TLS failed"),
            ("https://no-such-host.invalid".to_owned(), "unknown host"),
        ] {
            world.set("ZENDESK_API_URL", &url);
            world.set("SPREDFAST_API_URL", format!("{url}/v2/events"));
            world.set("PUBLIC_URL", &url);
            let output = world.command_with_settings(&["check", "--json"]).await;
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            for name in ["khoros token", "zendesk credential", "public url"] {
                let row = report["rows"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
                assert!(row["text"].as_str().unwrap().contains(reason), "{row}");
            }
        }
    })
    .await;
}

/// A firewall behaves so, or a pooler whose server is away.
#[tokio::test]
async fn a_postgresql_that_never_answers_is_logged_and_tried_again() {
    run_on_sqlite(|mut world| async move {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        world.set("DATABASE_URL", format!("postgres://a@{}/a", silent.local_addr().unwrap()));
        let bridge = world.spawn();
        bridge.wait_for("database_unreachable").await;
        let (_socket, _) = silent.accept().await.unwrap();
        let (_next, _) = silent.accept().await.unwrap();
        bridge.kill().await;
    })
    .await;
}

/// Each line says how long it waits for the next try: the sum is documented.
#[tokio::test]
async fn a_postgresql_that_stays_away_is_waited_for_45_s() {
    run(Kind::Postgres, async |mut world: World| {
        world.set("DATABASE_URL", format!("postgres://a@127.0.0.1:{}/a", free_port()));
        world.set("LOG_FORMAT", "json");
        let (status, log) = world.spawn().end_with_log().await;
        assert_eq!(status.code(), Some(1), "{log}");
        let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let waits: f64 = lines.iter().filter_map(|line| line["wait_s"].as_f64()).sum();
        assert!((40.0..=45.0).contains(&waits), "{waits}: {log}");
        let last = lines.last().unwrap();
        assert_eq!((&last["alert"], &last["level"]), (&json!("storage"), &json!("ERROR")), "{log}");
    })
    .await;
}

fn documented(format: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_casebridge"));
    // A value of the environment must never appear.
    let command = command.env_clear().env("ADMIN_TOKEN", "secret-of-this-test");
    let output = command.args(["settings", "--format", format]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !text.contains("secret-of-this-test"));
    text
}

#[test]
fn the_documents_contain_all_settings() {
    let page = include_str!("../../docs/configuration.md");
    let (_, tables) = page.split_once("<!-- settings:begin -->\n").unwrap();
    let (tables, _) = tables.split_once("<!-- settings:end -->").unwrap();
    assert!(
        tables == documented("markdown"),
        "docs/configuration.md is out of date. Renew it with: casebridge settings | sed -i \
         -e '/settings:begin/r /dev/stdin' -e '/settings:begin/,/settings:end/{{//!d}}' docs/configuration.md"
    );
    assert!(
        include_str!("../../.env.example") == documented("env"),
        ".env.example is out of date. Renew it with: casebridge settings --format env > .env.example"
    );
    let app: Value = serde_json::from_str(include_str!("../../app.json")).unwrap();
    let env: Value = serde_json::from_str(&documented("json")).unwrap();
    assert!(
        app["env"] == env,
        "app.json is out of date. Renew it with: jq --argjson env \"$(casebridge settings --format json)\" \
         '.env = $env' app.json > app.json.new && mv app.json.new app.json"
    );
}
