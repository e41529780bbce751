//! A world for each test: stand-ins for Khoros and Zendesk, its own database, and the real binary.

mod bridge;
mod pgbouncer;
mod postgres;
mod proxy;
mod receivers;
mod terminal;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::env;
use std::future::Future;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use casebridge_sandbox::khoros::{self, Khoros};
use casebridge_sandbox::zendesk::{self, Zendesk};
use casebridge_sandbox::{alerts, flow, slack, twilio, webhook};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config as ProptestConfig, RngSeed, TestRunner};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};
use tempfile::TempDir;

pub use bridge::Bridge;
pub use pgbouncer::PgBouncer;
pub use postgres::Cluster;
pub use proxy::{Proxy, Wire};
pub use receivers::{EXTERNAL_ID, FLOW_EVENT, OTHER_PHONE, PHONE, data, message};
pub use terminal::{Screen, on_terminal};

pub const BEARER: &str = "the-bearer-token-of-the-tests";
pub const ADMIN: &str = "the-admin-token-of-the-tests";
pub const LABEL: &str = "CreateCase";
/// Words of customers, which no log may hold.
pub const PRIVATE: &str = "zebra-crossing";

pub const TWITTER: &str = include_str!("../fixtures/stream-item-label-applied-twitter.json");
pub const FACEBOOK: &str = include_str!("../fixtures/stream-item-label-applied-facebook.json");

/// A test that takes longer has hung: ten times the usual time, in case the disk is busy.
const LIMIT: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
}

/// Two tests of one story, one on each database.
macro_rules! on_both {
    ($(async fn $name:ident($world:ident: World) $body:block)*) => { $(
        mod $name {
            use super::*;

            async fn story($world: World) $body

            #[tokio::test]
            async fn sqlite() {
                crate::harness::run(crate::harness::Kind::Sqlite, story).await;
            }

            #[tokio::test]
            async fn postgres() {
                crate::harness::run(crate::harness::Kind::Postgres, story).await;
            }
        }
    )* };
}
pub(crate) use on_both;

/// The same, and one on PostgreSQL behind a pooler.
macro_rules! on_all {
    ($(async fn $name:ident($world:ident: World) $body:block)*) => { $(
        mod $name {
            use super::*;

            async fn story($world: World) $body

            #[tokio::test]
            async fn sqlite() {
                crate::harness::run(crate::harness::Kind::Sqlite, story).await;
            }

            #[tokio::test]
            async fn postgres() {
                crate::harness::run(crate::harness::Kind::Postgres, story).await;
            }

            #[tokio::test]
            async fn pooler() {
                crate::harness::run_behind_pooler(story).await;
            }
        }
    )* };
}
pub(crate) use on_all;

/// Runs a story in a new world, or says by name that it was left out.
pub async fn run<F: Future<Output = ()>>(kind: Kind, story: impl FnOnce(World) -> F) {
    run_for(LIMIT, kind, story).await;
}

/// The same with another limit.
pub async fn run_for<F: Future<Output = ()>>(limit: Duration, kind: Kind, story: impl FnOnce(World) -> F) {
    let Some(database) = Database::new(kind).await else { return };
    let world = World::new(database).await;
    let logs = world.logs.clone();
    let told = tokio::time::timeout(limit, story(world)).await;
    let logs = logs.lock().unwrap();
    let last_lines = &logs[logs.len().saturating_sub(500)..];
    assert!(told.is_ok(), "the story hangs:\n{}", last_lines.join("\n"));
    check_privacy(&logs);
}

/// Runs a story with PgBouncer, in transaction mode, between casebridge and PostgreSQL.
pub async fn run_behind_pooler<F: Future<Output = ()>>(story: impl FnOnce(World) -> F) {
    run_behind_pooler_for(LIMIT, story).await;
}

/// The same with another limit.
pub async fn run_behind_pooler_for<F: Future<Output = ()>>(limit: Duration, story: impl FnOnce(World) -> F) {
    let Some(pooler) = PgBouncer::get() else { return leave_out("PgBouncer") };
    run_for(limit, Kind::Postgres, |mut world| {
        world.set("DATABASE_URL", pooler.url(&world.database.url));
        story(world)
    })
    .await;
}

/// Says by name that a test is left out.
pub fn leave_out(missing: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not `eprintln!`, which the test runner keeps to itself when a test passes.
    let _ = writeln!(std::io::stderr(), "left out, there is no {missing}: {name}");
}

/// Tests a property on `cases` random values, the same ones in each run. `PROPTEST_CASES` asks for
/// more of them and `PROPTEST_RNG_SEED` for others.
pub fn for_any<S: Strategy>(cases: u32, values: S, property: impl Fn(S::Value)) {
    let asked = ProptestConfig::default();
    let config = ProptestConfig {
        cases: if env::var_os("PROPTEST_CASES").is_some() { asked.cases } else { cases },
        rng_seed: if asked.rng_seed == RngSeed::Random { RngSeed::Fixed(0) } else { asked.rng_seed },
        failure_persistence: None,
        ..asked
    };
    let tried = TestRunner::new(config).run(&values, |value| {
        property(value);
        Ok(())
    });
    if let Err(error) = tried {
        panic!("{error}");
    }
}

/// For stories in which the database makes no difference.
pub async fn run_on_sqlite<F: Future<Output = ()>>(story: impl FnOnce(World) -> F) {
    run(Kind::Sqlite, story).await;
}

fn check_privacy(lines: &[String]) {
    for line in lines {
        assert_eq!(leak(line), None, "in the log: {line}");
    }
}

/// Returns the first secret or private word that the text contains.
pub fn leak(text: &str) -> Option<&'static str> {
    let secrets = [
        BEARER,
        ADMIN,
        PRIVATE,
        khoros::TOKEN,
        zendesk::CLIENT_SECRET,
        zendesk::API_TOKEN,
        webhook::SECRET,
        flow::API_KEY,
        alerts::PAGERDUTY_KEY,
        alerts::SLACK_SECRET,
        slack::TOKEN,
        PHONE,
        OTHER_PHONE,
        twilio::AUTH_TOKEN,
        twilio::API_KEY_SECRET,
        "sandbox-access-token",
        "Post Text",
        "Jane Doe",
    ];
    secrets.into_iter().find(|secret| text.contains(secret))
}

pub struct Database {
    pub kind: Kind,
    pub url: String,
    folder: TempDir,
}

impl Database {
    /// An empty one; or none, and it says by name what is left out, if there is no PostgreSQL and it
    /// is not required.
    pub async fn new(kind: Kind) -> Option<Database> {
        let folder = tempfile::tempdir().unwrap();
        let url = match kind {
            Kind::Sqlite => format!("sqlite://{}", folder.path().join("casebridge.db").display()),
            Kind::Postgres => match Cluster::get() {
                Some(cluster) => cluster.new_database().await,
                None => {
                    leave_out("PostgreSQL");
                    return None;
                }
            },
        };
        Some(Database { kind, url, folder })
    }

    /// Runs a statement that both databases know.
    pub async fn execute(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        match self.kind {
            Kind::Sqlite => {
                SqliteConnection::connect(&self.url).await.unwrap().execute(sql).await.unwrap();
            }
            Kind::Postgres => {
                PgConnection::connect(&self.url).await.unwrap().execute(sql).await.unwrap();
            }
        }
    }

    /// Makes the database refuse every row of this event.
    pub async fn refuse_event(&self, event: &str) {
        match self.kind {
            Kind::Sqlite => {
                let mut connection = SqliteConnection::connect(&self.url).await.unwrap();
                let trigger = format!(
                    "create trigger refuse before insert on delivery when new.event_id = '{event}'
                     begin select raise(abort, 'refused'); end"
                );
                connection.execute(AssertSqlSafe(trigger)).await.unwrap();
            }
            Kind::Postgres => {
                let mut connection = PgConnection::connect(&self.url).await.unwrap();
                let check = format!("alter table delivery add check (event_id <> '{event}')");
                connection.execute(AssertSqlSafe(check)).await.unwrap();
            }
        }
    }
}

impl Database {
    /// Takes back what [`Database::refuse_event`] did to an SQLite file.
    pub async fn take_every_event(&self) {
        let mut connection = SqliteConnection::connect(&self.url).await.unwrap();
        connection.execute("drop trigger refuse").await.unwrap();
    }
}

/// Everything around casebridge.
pub struct World {
    pub khoros: Khoros,
    pub zendesk: Zendesk,
    pub database: Database,
    pub http: reqwest::Client,
    pub vars: BTreeMap<&'static str, String>,
    /// What the binary is started by, if not directly.
    wrapper: Vec<String>,
    port: u16,
    logs: Arc<Mutex<Vec<String>>>,
}

impl World {
    async fn new(database: Database) -> World {
        let (khoros, zendesk) = (Khoros::start().await.unwrap(), Zendesk::start().await.unwrap());
        let port = free_port();
        let vars = BTreeMap::from([
            ("PORT", port.to_string()),
            ("PUBLIC_URL", format!("http://127.0.0.1:{port}")),
            // Some stories give an address that leads nowhere.
            ("PUBLIC_URL_PROBE_SECONDS", "0".to_owned()),
            ("DATABASE_URL", database.url.clone()),
            ("SPREDFAST_API_URL", khoros.api_url()),
            ("SPREDFAST_API_TOKEN", khoros::TOKEN.to_owned()),
            ("SPREDFAST_COMPANY_ID", "1,234".to_owned()),
            ("SPREDFAST_LABEL_NAME", LABEL.to_owned()),
            ("ZENDESK_API_URL", format!("{}/agent/dashboard", zendesk.url())),
            ("ZENDESK_OAUTH_CLIENT_ID", zendesk::CLIENT_ID.to_owned()),
            ("ZENDESK_OAUTH_CLIENT_SECRET", zendesk::CLIENT_SECRET.to_owned()),
            ("NOTIFICATION_BEARER_TOKEN", BEARER.to_owned()),
            ("ADMIN_TOKEN", ADMIN.to_owned()),
            // More than by default, so that stories with many tickets take no longer than they have to.
            ("ZENDESK_BUDGET_PERCENT", "60".to_owned()),
            // Short, so that what waits for the end of a lease does not make the tests wait.
            ("LEASE_SECONDS", "6".to_owned()),
            ("RUST_LOG", "info,casebridge=debug".to_owned()),
            // Stories wait for events and fields.
            ("LOG_FORMAT", "json".to_owned()),
        ]);
        let http = casebridge_sandbox::http_client().build().unwrap();
        World { khoros, zendesk, database, http, vars, wrapper: Vec::new(), port, logs: Arc::default() }
    }

    /// The same stand-ins, with an empty database.
    pub async fn with_an_empty_database(mut self) -> World {
        if let Some(database) = Database::new(self.database.kind).await {
            self.set("DATABASE_URL", database.url.clone());
            self.database = database;
        }
        self
    }

    /// The folder of its SQLite file.
    pub fn folder(&self) -> &Path {
        self.database.folder.path()
    }

    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.vars.insert(name, value.into());
    }

    /// Starts the binary by this command, which gets its path as the last argument.
    pub fn wrap(&mut self, command: &[&str]) {
        self.wrapper = command.iter().map(|word| (*word).to_owned()).collect();
    }

    pub fn unset(&mut self, name: &str) {
        self.vars.remove(name);
    }

    /// Starts casebridge and waits until it listens.
    pub async fn start(&self) -> Bridge {
        let bridge = self.spawn();
        bridge.wait_for("listening").await;
        bridge
    }

    /// Starts casebridge and waits until Khoros knows it.
    pub async fn start_subscribed(&self) -> Bridge {
        let bridge = self.start().await;
        bridge.wait_for("subscribed origin=push").await;
        bridge
    }

    /// Starts another instance on the same database, on its own port.
    pub async fn start_beside(&self, port: u16) -> Bridge {
        let mut vars = self.vars.clone();
        vars.insert("PORT", port.to_string());
        let bridge = Bridge::spawn(&self.wrapper, &vars, self.logs.clone());
        bridge.wait_for("listening").await;
        bridge
    }

    pub fn spawn(&self) -> Bridge {
        self.spawn_with(&self.vars)
    }

    /// The same with these variables alone.
    pub fn spawn_with(&self, vars: &BTreeMap<&'static str, String>) -> Bridge {
        Bridge::spawn(&self.wrapper, vars, self.logs.clone())
    }

    /// Runs a subcommand to its end, with these variables alone.
    pub async fn command(&self, arguments: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_casebridge"));
        command.args(arguments).env_clear().env("DATABASE_URL", &self.database.url);
        command.output().await.unwrap()
    }

    /// The same with all settings of the service.
    pub async fn command_with_settings(&self, arguments: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_casebridge"));
        command.args(arguments).env_clear().envs(&self.vars).output().await.unwrap()
    }

    /// `casebridge list --json`, the oldest first.
    pub async fn list(&self) -> Vec<Value> {
        self.list_with(&["list", "--json"]).await
    }

    /// Those that have not been settled yet.
    pub async fn waiting(&self) -> Vec<Value> {
        self.list_with(&["list", "--json", "--state", "waiting"]).await
    }

    async fn list_with(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.command(arguments).await;
        assert!(output.status.success(), "{output:?}");
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().rev().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Sends a notification as Khoros would, and expects it to be taken.
    pub async fn notify(&self, notification: &str) -> Value {
        let response = self.post(notification.to_owned()).await;
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    pub async fn post(&self, body: impl Into<reqwest::Body>) -> reqwest::Response {
        let request = self.http.post(self.url("/khoros/label")).bearer_auth(BEARER);
        request.header("content-type", "application/json").body(body).send().await.unwrap()
    }

    /// Waits until Zendesk has `count` tickets.
    pub async fn tickets(&self, count: usize) -> Vec<Value> {
        self.zendesk.wait_until(|model| model.tickets.len() >= count).await;
        self.zendesk.model().tickets.clone()
    }

    /// The comments of each case.
    pub fn comments_by_case(&self) -> BTreeMap<String, Vec<String>> {
        let model = self.zendesk.model();
        let mut comments = model.comments_by_ticket();
        let cases = model.tickets.iter().map(|ticket| {
            let comments = comments.remove(&ticket["id"].as_u64().unwrap()).unwrap_or_default();
            let bodies = comments.iter().map(|comment| comment["body"].as_str().unwrap().to_owned());
            (ticket["external_id"].as_str().unwrap().to_owned(), bodies.collect())
        });
        cases.collect()
    }

    /// The invariants that hold at the end of any story: everything for Zendesk is done, each case
    /// has one ticket and each ticket a case, and no key was ever used for other bytes.
    pub async fn check_one_ticket_per_case(&self) {
        let list = self.list_of("zendesk").await;
        let model = self.zendesk.model();
        let mut cases: Vec<&Value> = model.tickets.iter().map(|ticket| &ticket["external_id"]).collect();
        cases.sort_by_key(|case| case.to_string());
        let count = cases.len();
        cases.dedup();
        assert_eq!(cases.len(), count, "a case has two tickets");
        let numbers: HashMap<&Value, String> =
            model.tickets.iter().map(|ticket| (&ticket["external_id"], ticket["id"].to_string())).collect();
        for delivery in &list {
            assert_eq!(delivery["state"], "done", "{delivery}");
            let number = numbers.get(&delivery["case"]);
            assert_eq!(delivery["ticket"].as_str(), number.map(String::as_str), "{delivery}");
        }
        let asked_for: HashSet<&Value> = list.iter().map(|delivery| &delivery["case"]).collect();
        for case in cases {
            assert!(asked_for.contains(case), "nobody asked for {case}");
        }
        assert_eq!((model.key_mismatches, model.keyless), (0, 0));
        let mut marks: Vec<String> =
            model.audits.iter().map(|audit| audit["metadata"]["custom"]["delivery"].to_string()).collect();
        marks.retain(|mark| mark != "null");
        marks.sort();
        let twice = marks.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(twice, None, "a delivery did its part twice");
    }
}

/// A number from the environment of the tests.
pub fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

/// A label event about this post.
pub fn event(event: &str, post: &str) -> String {
    let mut notification: Value = serde_json::from_str(TWITTER).unwrap();
    notification["eventUuid"] = json!(event);
    notification["data"]["items"][0]["entityId"] = json!(format!("twitter:{post}"));
    notification["data"]["items"][0]["text"] = json!(format!("{PRIVATE} {post}"));
    notification["data"]["items"][0]["author"] = json!("Jane Doe");
    notification.to_string()
}

/// The same with something else in the post.
pub fn event_with(event: &str, post: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut notification: Value = serde_json::from_str(&self::event(event, post)).unwrap();
    change(&mut notification["data"]["items"][0]);
    notification.to_string()
}

/// Below the range from which the system takes ports for outgoing connections.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 200) as u16 * 100;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
