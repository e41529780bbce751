//! `casebridge check`: each broken thing is one line, and nothing is changed.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use casebridge_sandbox::khoros::{self, Answer, Call, FeedShape, Status, Style};
use casebridge_sandbox::zendesk::{self, Fault};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};

use crate::harness::{Cluster, Kind, World, free_port, leak, on_both, run, run_on_sqlite};

const ROWS: [&str; 10] = [
    "configuration",
    "storage",
    "khoros token",
    "khoros label",
    "khoros subscription",
    "khoros pull",
    "zendesk credential",
    "zendesk fields",
    "public url",
    "clock",
];

/// The result of a check.
#[derive(Debug)]
struct Checked {
    code: Option<i32>,
    rows: Vec<Value>,
}

impl Checked {
    fn row(&self, name: &str) -> &Value {
        self.rows.iter().find(|row| row["name"] == name).unwrap()
    }

    fn text(&self, name: &str) -> &str {
        self.row(name)["text"].as_str().unwrap()
    }

    fn marked(&self, mark: &str) -> Vec<&str> {
        let marked = self.rows.iter().filter(|row| row["mark"] == mark);
        marked.map(|row| row["name"].as_str().unwrap()).collect()
    }
}

async fn check(world: &World) -> Checked {
    let output = world.command_with_settings(&["check", "--json"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!((leak(&text), output.stderr.len()), (None, 0), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let rows = report["rows"].as_array().unwrap().clone();
    let checked = Checked { code: output.status.code(), rows };
    let names: Vec<&str> = checked.rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ROWS);
    let is_ok = checked.marked("failed").is_empty();
    assert_eq!((&report["ok"], checked.code), (&json!(is_ok), Some(i32::from(!is_ok))), "{text}");
    for row in checked.rows.iter().filter(|row| row["mark"] == "failed") {
        assert!(row["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{row}");
    }
    checked
}

/// Makes both stand-ins show everything, and sets variables that name things there.
fn furnish(world: &mut World) {
    world.khoros.model().style = Style::Json;
    world.khoros.model().feed_shape = FeedShape::Array;
    world.set("TICKET_GROUP_ID", "10");
    world.set("TICKET_ASSIGNEE_ID", "20");
    world.set("TICKET_BRAND_ID", "30");
    world.set("TICKET_FORM_ID", "40");
    world.set("TICKET_CUSTOM_FIELDS", r#"{"50": "x", "51": true}"#);
}

/// How many calls changed something.
fn changes(world: &World) -> [u32; 6] {
    let khoros = world.khoros.model();
    let zendesk = world.zendesk.model();
    [khoros.calls, khoros.deletes, khoros.puts, zendesk.creates, zendesk.updates, zendesk.user_writes]
}

fn folder(world: &World) -> BTreeSet<String> {
    let file = Path::new(world.database.url.trim_start_matches("sqlite://"));
    let entries = file.parent().map(|folder| folder.read_dir());
    let entries = entries.into_iter().flatten().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

on_both! {
    async fn beside_a_running_service_everything_is_in_order(world: World) {
        let mut world = world;
        furnish(&mut world);
        let bridge = world.start_subscribed().await;
        let before = (changes(&world), folder(&world));
        let checked = check(&world).await;
        assert_eq!(checked.marked("ok"), ROWS, "{checked:?}");
        assert_eq!(changes(&world), before.0);
        let storage = checked.text("storage");
        match world.database.kind {
            Kind::Sqlite => assert!(storage.contains("SQLite 3.") && storage.contains("a service is running")),
            Kind::Postgres => assert!(storage.contains("PostgreSQL "), "{storage}"),
        }
        let token = checked.text("khoros token");
        assert!(token.contains("Case Bridge (bridge@acme.example)"), "{token}");
        assert!(token.contains("company Acme: directory id 24606, environment id 1234"), "{token}");
        assert_eq!(checked.text("zendesk fields"), "6 of 6 exist and are in use");

        let output = world.command_with_settings(&["check"]).await;
        let screen = String::from_utf8(output.stdout).unwrap();
        assert_eq!((output.status.code(), leak(&screen)), (Some(0), None));
        for row in &checked.rows {
            let name = row["name"].as_str().unwrap();
            assert!(screen.contains(&format!("✓ {name}  ")), "{screen}");
        }
        assert!(!screen.contains('\u{1b}'), "{screen}");

        // The check did not disturb the service, and reports it when it is gone.
        bridge.stop().await;
        let files = folder(&world);
        let checked = check(&world).await;
        assert_eq!(checked.marked("failed"), ["public url"]);
        assert!(!checked.text("storage").contains("running"), "{checked:?}");
        assert_eq!(folder(&world), files);
    }

    async fn before_the_first_start_nothing_is_created(world: World) {
        let mut world = world;
        furnish(&mut world);
        world.set("SPREDFAST_MODE", "poll");
        let checked = check(&world).await;
        assert_eq!(checked.marked("failed"), [""; 0], "{checked:?}");
        for name in ["storage", "khoros subscription", "khoros pull"] {
            assert_eq!(checked.row(name)["mark"], "warning", "{checked:?}");
        }
        assert_eq!(changes(&world), [0; 6]);
        assert_eq!(world.khoros.model().subscriptions.len(), 0);
        match world.database.kind {
            Kind::Sqlite => assert_eq!(folder(&world).len(), 0),
            Kind::Postgres => {
                let mut connection = PgConnection::connect(&world.database.url).await.unwrap();
                let tables = "select count(*) from pg_tables where schemaname = 'public'";
                let tables: i64 = sqlx::query_scalar(tables).fetch_one(&mut connection).await.unwrap();
                assert_eq!(tables, 0);
            }
        }
    }

    async fn a_casebridge_on_another_database_is_not_ours(world: World) {
        let mut world = world;
        furnish(&mut world);
        let _bridge = world.start_subscribed().await;
        assert_eq!(check(&world).await.row("public url")["mark"], "ok");
        execute(&world, "update deployment set id = 'another'").await;
        let checked = check(&world).await;
        assert_eq!(checked.marked("failed"), ["public url"]);
        assert!(checked.text("public url").contains("an answer from something else"), "{checked:?}");
    }

    async fn pending_and_newer_migrations_are_reported(world: World) {
        world.start().await.stop().await;
        let sql = "update _sqlx_migrations set version = 99990000 where version = 1";
        execute(&world, sql).await;
        let checked = check(&world).await;
        assert_eq!(checked.row("storage")["mark"], "warning", "{checked:?}");
        assert!(checked.text("storage").contains("1 of a later version"), "{checked:?}");
        assert!(checked.text("storage").contains("1 pending"), "{checked:?}");
        execute(&world, "update _sqlx_migrations set success = false").await;
        assert_eq!(check(&world).await.row("storage")["mark"], "failed");
    }
}

async fn execute(world: &World, sql: &str) {
    let sql = AssertSqlSafe(sql.to_owned());
    match world.database.kind {
        Kind::Sqlite => {
            let mut connection = SqliteConnection::connect(&world.database.url).await.unwrap();
            connection.execute(sql).await.unwrap();
        }
        Kind::Postgres => {
            PgConnection::connect(&world.database.url).await.unwrap().execute(sql).await.unwrap();
        }
    }
}

type Break = fn(&mut World);

/// How to break something, the row that reports it, and a part of its text or remedy.
const BROKEN: &[(Break, &str, &str)] = &[
    (|world| world.unset("SPREDFAST_LABEL_NAME"), "configuration", "SPREDFAST_LABEL_NAME is not set"),
    (|world| world.set("TICKET_STATUS", "closed"), "configuration", "TICKET_STATUS"),
    (|world| world.set("DATABASE_URL", "sqlite:///no/such/folder/a.db"), "storage", "/no/such/folder"),
    (
        |world| world.set("DATABASE_URL", format!("postgres://a@127.0.0.1:{}/a", free_port())),
        "storage",
        "DATABASE_URL",
    ),
    (
        |world| world.set("DATABASE_URL", format!("sqlite://{}/Cargo.toml", env!("CARGO_MANIFEST_DIR"))),
        "storage",
        "not a database",
    ),
    (|world| world.set("SPREDFAST_API_TOKEN", "another-token"), "khoros token", "SPREDFAST_API_TOKEN (401)"),
    (|world| outage(world, Answer::DeveloperInactive), "khoros token", "Developer Inactive"),
    (|world| outage(world, Answer::ServiceNotFound), "khoros token", "SPREDFAST_API_URL"),
    (|world| outage(world, Answer::Html), "khoros token", "SPREDFAST_API_URL"),
    (|world| outage(world, Answer::Status(503)), "khoros token", "status page"),
    (|world| outage(world, Answer::Reset), "khoros token", "cannot be reached"),
    (
        |world| token_until(world, Timestamp::now() - SignedDuration::from_hours(24)),
        "khoros token",
        "it expired on",
    ),
    (
        |world| label(world, "Createcase", "ACTIVE"),
        "khoros label",
        "`CreateCase`; did you mean `Createcase`?",
    ),
    (|world| label(world, "Other", "ACTIVE"), "khoros label", "has no label `CreateCase`"),
    (|world| label(world, "CreateCase", "DISABLED"), "khoros label", "is not active"),
    (|world| status(world, Status::Paused), "khoros subscription", "PAUSED"),
    (|world| status(world, Status::Disabled), "khoros subscription", "DISABLED"),
    (|world| set_field(world, "eventName", "rule-applied"), "khoros subscription", "`rule-applied`"),
    (
        |world| set_field(world, "query", "Other"),
        "khoros subscription",
        "query `Other` instead of `CreateCase`",
    ),
    (
        |world| set_field(world, "notificationUri", "https://old.example.com/khoros/label"),
        "khoros subscription",
        "old.example.com instead of 127.0.0.1:",
    ),
    (|world| repath(world, "/elsewhere"), "khoros subscription", "/elsewhere instead of /khoros/label"),
    (|world| set_field(world, "query", "Other"), "khoros subscription", "unsubscribe"),
    (|world| api_path(world, ""), "khoros subscription", "SPREDFAST_API_URL"),
    (|world| api_path(world, "/v2/event"), "khoros subscription", "SPREDFAST_API_URL"),
    (|world| api_path(world, "/v1/events/company/{id}"), "khoros subscription", "SPREDFAST_API_URL"),
    (|world| no_feed(world), "khoros pull", "SPREDFAST_MODE"),
    (
        |world| world.set("ZENDESK_OAUTH_CLIENT_SECRET", "another-secret"),
        "zendesk credential",
        "ZENDESK_OAUTH_CLIENT_SECRET",
    ),
    (
        |world| world.zendesk.model().outage = Some(Fault::Unauthorized),
        "zendesk credential",
        "ZENDESK_OAUTH_CLIENT_ID",
    ),
    (
        |world| world.zendesk.model().scopes = BTreeSet::from(["read"]),
        "zendesk credential",
        "with the scopes tickets:write, users:write and read allowed",
    ),
    (|world| api_token(world, "another-token"), "zendesk credential", "ZENDESK_API_TOKEN"),
    (
        |world| world.zendesk.model().withheld = BTreeSet::from(["users:write"]),
        "zendesk credential",
        "users:write",
    ),
    (|world| world.zendesk.model().withheld = BTreeSet::from(["read"]), "zendesk credential", "scope read"),
    (|world| world.set("ZENDESK_API_URL", world.url("")), "zendesk credential", "ZENDESK_API_URL"),
    (
        |world| world.set("ZENDESK_API_URL", format!("http://127.0.0.1:{}", free_port())),
        "zendesk credential",
        "ZENDESK_API_URL",
    ),
    (|world| world.zendesk.model().outage = Some(Fault::Status(503)), "zendesk credential", "503"),
    (|world| world.set("TICKET_GROUP_ID", "99"), "zendesk fields", "TICKET_GROUP_ID: group 99"),
    (
        |world| world.set("TICKET_CUSTOM_FIELDS", r#"{"50": 1, "99": 1}"#),
        "zendesk fields",
        "TICKET_CUSTOM_FIELDS: field 99",
    ),
    (|world| another_route(world), "zendesk fields", "ROUTE_VIP_TICKET_FORM_ID: form 99"),
    (
        |world| {
            world.zendesk.model().known.inactive.insert(20);
        },
        "zendesk fields",
        "user 20 is suspended",
    ),
    (
        |world| {
            world.zendesk.model().known.inactive.insert(30);
        },
        "zendesk fields",
        "brand 30 is not active",
    ),
    (|world| world.unset("PUBLIC_URL"), "public url", "restart: PUBLIC_URL=https"),
    (
        |world| world.set("PUBLIC_URL", format!("http://127.0.0.1:{}", free_port())),
        "public url",
        "PUBLIC_URL",
    ),
    (|world| world.set("PUBLIC_URL", world.zendesk.url()), "public url", "an answer of status 404"),
    (
        |world| world.zendesk.model().clock_ahead = SignedDuration::from_mins(6),
        "clock",
        "behind that of Zendesk",
    ),
    (
        |world| world.khoros.model().clock_ahead = SignedDuration::from_mins(-6),
        "clock",
        "ahead of that of Khoros",
    ),
];

/// Things that need no action at once, or that cannot be known.
const DOUBTFUL: &[(Break, &str, &str)] = &[
    (|world| world.set("TICKET_GROPU_ID", "10"), "configuration", "TICKET_GROPU_ID"),
    (
        |world| world.set("SPREDFAST_COMPANY_ID", "99"),
        "khoros token",
        "SPREDFAST_COMPANY_ID is none of these",
    ),
    (|world| world.khoros.queue(Call::WhoAmI, [Answer::Text]), "khoros token", "does not show"),
    (|world| world.khoros.queue(Call::WhoAmI, [Answer::Throttled]), "khoros token", "too many calls"),
    (
        |world| token_until(world, Timestamp::now() + SignedDuration::from_hours(24 * 31)),
        "khoros token",
        "in 30 days",
    ),
    (|world| world.khoros.queue(Call::Labels, [Answer::Status(403)]), "khoros label", "403"),
    (|world| world.khoros.queue(Call::Labels, [Answer::Text]), "khoros label", "does not show"),
    (|world| more_labels(world), "khoros label", "`DoNotCreateCase`"),
    (|world| world.khoros.model().style = Style::Text, "khoros subscription", "does not show"),
    (
        |world| world.set("SPREDFAST_API_URL", world.khoros.v1_api_url()),
        "khoros subscription",
        "does not show",
    ),
    (|world| world.set("SPREDFAST_EXTERNAL_ID", "another"), "khoros subscription", "`another`: none yet"),
    (
        |world| world.khoros.model().hidden = &["eventName", "query", "notificationUri"],
        "khoros subscription",
        "shows no event and no query and no address of it",
    ),
    (|world| world.khoros.model().hidden = &["status"], "khoros subscription", "no known status"),
    (|world| double(world), "khoros subscription", "Khoros lists it 2 times"),
    (|world| repath(world, "/createTicket"), "khoros subscription", "2017"),
    (|world| world.khoros.model().feed_shape = FeedShape::Unavailable, "khoros pull", "no feed"),
    (|world| busy(world), "zendesk credential", "429 to the request for an OAuth token"),
    (
        |world| {
            busy(world);
            api_token(world, zendesk::API_TOKEN);
        },
        "zendesk credential",
        "429 to the check of the credential",
    ),
    (|world| narrow(world), "zendesk credential", "works with fewer"),
    (|world| narrow(world), "zendesk fields", "403"),
    (|world| api_token(world, zendesk::API_TOKEN), "zendesk credential", "on 2027-04-30"),
    (|world| world.zendesk.model().clock_ahead = SignedDuration::from_secs(100), "clock", "behind"),
];

#[tokio::test]
async fn each_broken_thing_is_one_line() {
    run_on_sqlite(|world| check_each(world, BROKEN, "failed")).await;
}

#[tokio::test]
async fn doubtful_things_are_warnings() {
    run_on_sqlite(|world| check_each(world, DOUBTFUL, "warning")).await;
}

async fn check_each(mut world: World, cases: &[(Break, &str, &str)], mark: &str) {
    furnish(&mut world);
    let _bridge = world.start_subscribed().await;
    let vars = world.vars.clone();
    let subscriptions = world.khoros.model().subscriptions.clone();
    let mut wrong = Vec::new();
    for (broken, name, part) in cases {
        broken(&mut world);
        let checked = check(&world).await;
        let row = checked.row(name);
        let failed = if mark == "failed" { vec![*name] } else { Vec::new() };
        let is_reported = row["mark"] == mark && row.to_string().contains(part);
        if checked.marked("failed") != failed || !is_reported {
            wrong.push(format!("{name}, {part}: {checked:#?}"));
        }
        world.vars = vars.clone();
        mend(&mut world, &subscriptions);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(check(&world).await.marked("ok"), ROWS);
    assert_eq!(changes(&world), [1, 0, 0, 0, 0, 0]);
}

/// Restores the state after the start.
fn mend(world: &mut World, subscriptions: &[khoros::Subscription]) {
    let fresh = khoros::Model::default();
    let mut khoros = world.khoros.model();
    khoros.subscriptions = subscriptions.to_vec();
    khoros.style = Style::Json;
    khoros.feed_shape = FeedShape::Array;
    khoros.hidden = fresh.hidden;
    khoros.outage = None;
    khoros.token = fresh.token;
    khoros.labels = fresh.labels;
    khoros.clock_ahead = fresh.clock_ahead;
    drop(khoros);
    let mut zendesk = world.zendesk.model();
    zendesk.outage = None;
    zendesk.withheld.clear();
    zendesk.scopes = BTreeSet::from(["tickets:write", "tickets:read", "users:write", "read"]);
    zendesk.known.inactive.clear();
    zendesk.clock_ahead = SignedDuration::ZERO;
}

fn outage(world: &mut World, answer: Answer) {
    world.khoros.model().outage = Some(answer);
}

fn token_until(world: &mut World, end: Timestamp) {
    let claims = json!({"sub": "1", "exp": end.as_second()}).to_string();
    let token = format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims));
    world.khoros.model().token.clone_from(&token);
    world.set("SPREDFAST_API_TOKEN", token);
}

fn label(world: &mut World, name: &str, status: &str) {
    world.khoros.model().labels = vec![(name.to_owned(), status.to_owned())];
}

/// More than one page of labels.
fn more_labels(world: &mut World) {
    let names = (0..500).map(|number| format!("Label {number}"));
    let names = names.chain(["CreateCase".to_owned(), "DoNotCreateCase".to_owned()]);
    world.khoros.model().labels = names.map(|name| (name, "ACTIVE".to_owned())).collect();
}

fn status(world: &mut World, status: Status) {
    world.khoros.model().subscriptions[0].status = status;
}

fn set_field(world: &mut World, field: &str, value: &str) {
    world.khoros.model().subscriptions[0].sent[field] = json!(value);
}

fn repath(world: &mut World, path: &str) {
    let url = world.url(path);
    set_field(world, "notificationUri", &url);
}

fn double(world: &mut World) {
    let mut model = world.khoros.model();
    let sent = model.subscriptions[0].sent.clone();
    model.add(sent);
}

fn no_feed(world: &mut World) {
    world.set("SPREDFAST_MODE", "poll");
    world.khoros.model().feed_shape = FeedShape::Unavailable;
}

fn api_path(world: &mut World, path: &str) {
    let url = format!("{}{path}", world.khoros.url());
    world.set("SPREDFAST_API_URL", url);
}

fn busy(world: &mut World) {
    world.zendesk.model().outage = Some(Fault::TooMany(30));
}

fn narrow(world: &mut World) {
    world.zendesk.model().scopes = BTreeSet::from(["tickets:write", "tickets:read"]);
}

fn another_route(world: &mut World) {
    world.set("ROUTE_VIP_EVENT", "rule-applied");
    world.set("ROUTE_VIP_TICKET_FORM_ID", "99");
}

fn api_token(world: &mut World, token: &str) {
    world.unset("ZENDESK_OAUTH_CLIENT_ID");
    world.unset("ZENDESK_OAUTH_CLIENT_SECRET");
    world.set("ZENDESK_USER_EMAIL", zendesk::USER_EMAIL);
    world.set("ZENDESK_API_TOKEN", token);
}

/// A missing setting hides no row that does not need it.
#[tokio::test]
async fn with_settings_missing_everything_else_is_checked() {
    run_on_sqlite(|mut world| async move {
        furnish(&mut world);
        let _bridge = world.start_subscribed().await;
        let vars = world.vars.clone();
        for (missing, not_checked) in [
            (
                "SPREDFAST_API_TOKEN",
                &["khoros token", "khoros label", "khoros subscription", "khoros pull"][..],
            ),
            ("ZENDESK_API_URL", &["zendesk credential", "zendesk fields"]),
            ("SPREDFAST_LABEL_NAME", &["khoros label", "khoros subscription", "khoros pull"]),
            ("NOTIFICATION_BEARER_TOKEN", &[]),
        ] {
            world.unset(missing);
            let checked = check(&world).await;
            assert_eq!(checked.marked("failed"), ["configuration"], "{missing}");
            assert_eq!(checked.marked("warning"), not_checked, "{missing}: {checked:?}");
            assert!(checked.text("configuration").contains(missing), "{checked:?}");
            world.vars = vars.clone();
        }
    })
    .await;
}

#[tokio::test]
async fn before_the_first_start_nothing_is_broken() {
    run_on_sqlite(|mut world| async move {
        furnish(&mut world);
        let marks = async |world: &World, arguments: &[&str]| {
            let output = world.command_with_settings(arguments).await;
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            let rows = report["rows"].as_array().unwrap().clone();
            let checked = Checked { code: output.status.code(), rows };
            let names = |mark| checked.marked(mark).iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            (checked.code, names("failed"), names("warning"))
        };
        let missing = ["storage", "khoros subscription", "khoros pull", "public url"];
        let (code, failed, warned) = marks(&world, &["check", "--json", "--before-start"]).await;
        assert_eq!((code, failed.len()), (Some(0), 0), "{failed:?}");
        assert_eq!(warned, missing);
        assert_eq!(marks(&world, &["check", "--json"]).await.1, ["public url"]);

        // Some service managers create the folder of the service when they start it.
        world.set("DATABASE_URL", "sqlite:///no/such/folder/a.db");
        let (code, _, warned) = marks(&world, &["check", "--json", "--before-start"]).await;
        assert_eq!((code, warned.len()), (Some(0), missing.len()));
        world.unset("ZENDESK_API_URL");
        let (code, failed, _) = marks(&world, &["check", "--json", "--before-start"]).await;
        assert_eq!((code, failed), (Some(1), vec!["configuration".to_owned()]));
    })
    .await;
}

#[tokio::test]
async fn servers_that_never_answer_do_not_hold_up_a_check() {
    run_on_sqlite(|mut world| async move {
        furnish(&mut world);
        let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", deaf.local_addr().unwrap());
        world.set("SPREDFAST_API_URL", format!("{address}/v2/events"));
        world.set("ZENDESK_API_URL", address.clone());
        world.set("PUBLIC_URL", address);
        let checked = check(&world).await;
        assert_eq!(checked.marked("failed"), ["khoros token", "zendesk credential", "public url"]);
    })
    .await;
}

#[tokio::test]
async fn files_of_a_killed_service_are_left_alone() {
    run_on_sqlite(|mut world| async move {
        furnish(&mut world);
        world.start_subscribed().await.kill().await;
        let files = folder(&world);
        let checked = check(&world).await;
        assert_eq!(checked.row("storage")["mark"], "ok", "{checked:?}");
        assert!(!checked.text("storage").contains("running"), "{checked:?}");
        assert_eq!(folder(&world), files);
        let _bridge = world.start().await;
    })
    .await;
}

#[tokio::test]
async fn a_read_only_database_is_reported() {
    run(Kind::Postgres, async |mut world: World| {
        world.start().await.stop().await;
        let cluster = Cluster::get().unwrap();
        cluster.execute("create role check_reader login").await;
        execute(&world, "grant usage on schema public to check_reader").await;
        execute(&world, "grant select on all tables in schema public to check_reader").await;
        let url = world.database.url.replace("postgres@", "check_reader@");
        world.set("DATABASE_URL", url.clone());
        let checked = check(&world).await;
        assert!(checked.text("storage").contains("does not let this user write"), "{checked:?}");
        // A check demands exactly the rights that a start needs.
        for grant in [
            "grant insert, update, delete on all tables in schema public to check_reader",
            "grant create on schema public to check_reader",
        ] {
            assert_eq!(check(&world).await.row("storage")["mark"], "failed", "before {grant}");
            execute(&world, grant).await;
        }
        assert_eq!(check(&world).await.row("storage")["mark"], "ok");
        world.start().await.stop().await;
        execute(&world, "revoke insert on memo from check_reader").await;
        assert_eq!(check(&world).await.row("storage")["mark"], "failed");
    })
    .await;
}

/// As of `casebridge check | head -1`.
#[tokio::test]
async fn a_reader_that_closes_the_pipe_gets_the_exit_code() {
    run_on_sqlite(|mut world| async move {
        furnish(&mut world);
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_casebridge"));
        command.arg("check").env_clear().envs(&world.vars).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().await.unwrap().code(), Some(1));
    })
    .await;
}
