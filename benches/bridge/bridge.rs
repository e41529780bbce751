//! The real binary as a child process, and the variables that it gets.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use casebridge_sandbox::khoros::{self, Khoros};
use casebridge_sandbox::zendesk;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::load::Client;
use crate::postgres::Postgres;

pub const BEARER: &str = "the-bearer-token-of-the-benches";
pub const ADMIN: &str = "the-admin-token-of-the-benches";
pub const BINARY: &str = env!("CARGO_BIN_EXE_casebridge");

/// Where a measurement keeps its deliveries; a new one has none.
pub struct Database {
    url: String,
    folder: TempDir,
}

impl Database {
    pub fn sqlite() -> Database {
        let folder = tempfile::tempdir().unwrap();
        Database { url: format!("sqlite://{}", folder.path().join("casebridge.db").display()), folder }
    }

    pub async fn postgres(postgres: &Postgres) -> Database {
        Database { url: postgres.new_database().await, folder: tempfile::tempdir().unwrap() }
    }

    /// None if PgBouncer is not installed.
    pub async fn behind_pooler(postgres: &Postgres) -> Option<Database> {
        let url = postgres.new_database_behind_pooler().await?;
        Some(Database { url, folder: tempfile::tempdir().unwrap() })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("casebridge.db")
    }

    /// Next to the SQLite file: what the processes that have it open share.
    pub fn shared_memory(&self) -> PathBuf {
        self.folder.path().join("casebridge.db-shm")
    }
}

/// casebridge and its surroundings; the caller supplies the stand-in for Zendesk.
pub struct World {
    pub port: u16,
    pub database: Database,
    vars: BTreeMap<&'static str, String>,
    _khoros: Khoros,
}

impl World {
    /// `zendesk` is a port of loopback, where somebody may listen or not.
    pub async fn new(database: Database, zendesk: u16) -> World {
        let (khoros, port) = (Khoros::start().await.unwrap(), free_port());
        let vars = BTreeMap::from([
            ("PORT", port.to_string()),
            ("PUBLIC_URL", format!("http://127.0.0.1:{port}")),
            ("DATABASE_URL", database.url.clone()),
            ("SPREDFAST_API_URL", khoros.api_url()),
            ("SPREDFAST_API_TOKEN", khoros::TOKEN.to_owned()),
            ("SPREDFAST_COMPANY_ID", "1234".to_owned()),
            ("SPREDFAST_LABEL_NAME", "CreateCase".to_owned()),
            ("ZENDESK_API_URL", format!("http://127.0.0.1:{zendesk}")),
            ("ZENDESK_OAUTH_CLIENT_ID", zendesk::CLIENT_ID.to_owned()),
            ("ZENDESK_OAUTH_CLIENT_SECRET", zendesk::CLIENT_SECRET.to_owned()),
            ("ZENDESK_BUDGET_PERCENT", "100".to_owned()),
            ("TICKET_MAX_PER_HOUR", "0".to_owned()),
            ("NOTIFICATION_BEARER_TOKEN", BEARER.to_owned()),
        ]);
        World { port, database, vars, _khoros: khoros }
    }

    /// A world without Zendesk: deliveries stay in the database, and the destination is paused.
    pub async fn without_zendesk(database: Database) -> World {
        World::new(database, free_port()).await
    }

    pub fn set(&mut self, name: &'static str, value: String) {
        self.vars.insert(name, value);
    }

    /// Starts it and waits until it takes requests.
    pub async fn start(&self) -> Bridge {
        let child = self.command().stdout(Stdio::null()).spawn().unwrap();
        wait_until_ready(self.port).await;
        Bridge(child)
    }

    /// Starts it and reads its log; returns the time until the line `listening on`.
    pub async fn start_watched(&self) -> (Bridge, Duration) {
        let started = Instant::now();
        let mut child = self.command().stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while !lines.next_line().await.unwrap().expect("casebridge listens").contains("listening on") {}
        let took = started.elapsed();
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        (Bridge(child), took)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command.env_clear().envs(&self.vars).stdin(Stdio::null()).kill_on_drop(true);
        // If a preloaded library simulates a slower disk, both processes have to use it.
        command.envs(std::env::var_os("LD_PRELOAD").map(|library| ("LD_PRELOAD", library)));
        command
    }
}

/// A running process that serves notifications.
pub struct Bridge(pub Child);

impl Bridge {
    pub fn pid(&self) -> u32 {
        self.0.id().expect("it still runs")
    }

    /// SIGTERM, and the end of the process.
    pub async fn stop(mut self) {
        let pid = self.pid().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
        self.0.wait().await.unwrap();
    }
}

pub async fn wait_until_ready(port: u16) {
    let ready = async {
        loop {
            if let Ok(mut client) = Client::connect(port).await
                && let Ok(200) = client.exchange(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ready).await.expect("the server does not start");
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
