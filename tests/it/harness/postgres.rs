//! A throw-away PostgreSQL cluster on loopback, from the installed binaries, one for all tests of a
//! run and more for those that restart it. It ends when this process does, however that comes about:
//! its shell waits for the end of a pipe that we hold.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

/// Set to `required` where a missing PostgreSQL is to be a failure.
pub const VARIABLE: &str = "CASEBRIDGE_TEST_POSTGRES";

pub struct Cluster {
    pub port: u16,
    shell: Mutex<Child>,
}

const SCRIPT: &str = r#"
    folder=$1 port=$2
    initdb --pgdata="$folder/data" --username=postgres --auth=trust --encoding=UTF8 --no-sync \
        >"$folder/initdb.log" 2>&1 || { cat "$folder/initdb.log" >&2; exit 1; }
    start() {
        postgres -D "$folder/data" -c listen_addresses=127.0.0.1 -c port="$port" -c fsync=off \
            -c unix_socket_directories="$folder" -c max_connections=300 &
    }
    start
    while read -r signal; do
        kill -"$signal" $!
        wait $!
        start
    done
    kill -INT $!
    wait
    rm -rf "$folder"
"#;

impl Cluster {
    /// The cluster of this run; none if it is not installed and not required.
    pub fn get() -> Option<&'static Cluster> {
        static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();
        let cluster = CLUSTER.get_or_init(|| binaries().map(|binaries| Cluster::start(&binaries)));
        let required = env::var(VARIABLE).is_ok_and(|value| value == "required");
        assert!(cluster.is_some() || !required, "{VARIABLE}=required, and there are no binaries of it");
        cluster.as_ref()
    }

    /// Starts another cluster, which a test may stop or break. Needs an installed PostgreSQL.
    pub fn another() -> Cluster {
        Cluster::start(&binaries().unwrap())
    }

    /// Ends the server by a signal, `INT` or `QUIT`, and starts it again.
    pub fn restart(&self, signal: &str) {
        let mut shell = self.shell.lock().unwrap();
        writeln!(shell.stdin.as_mut().unwrap(), "{signal}").unwrap();
    }

    /// A new, empty database.
    pub async fn new_database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.execute(&format!("create database {name}")).await;
        self.url(&name)
    }

    /// Runs a statement as the cluster's owner.
    pub async fn execute(&self, sql: &str) {
        let mut connection = PgConnection::connect(&self.url("postgres")).await.unwrap();
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    fn start(binaries: &Path) -> Cluster {
        let folder = tempfile::tempdir().unwrap().keep();
        let port = super::free_port();
        let path = format!("{}:{}", binaries.display(), env::var("PATH").unwrap_or_default());
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(&folder).arg(port.to_string()).env("PATH", path);
        // Its own group: what interrupts the tests must not keep it from cleaning up.
        command
            .process_group(0)
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // PostgreSQL refuses to run as root.
        if let Some((user, group)) = lesser_user(&folder) {
            chown(&folder, Some(user), Some(group)).unwrap();
            command.uid(user).gid(group);
        }
        let mut shell = command.spawn().unwrap();
        let mut log = BufReader::new(shell.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let ready = log.by_ref().any(|line| {
            let ready = line.contains("ready to accept connections");
            said.push(line);
            ready
        });
        assert!(ready, "PostgreSQL does not start:\n{}", said.join("\n"));
        // A pipe that nobody reads would stop it in the end.
        std::thread::spawn(move || log.for_each(drop));
        Cluster { port, shell: Mutex::new(shell) }
    }
}

/// The folder that holds `initdb` and `postgres`; Debian keeps them off the path.
fn binaries() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = debian.filter_map(|version| Some(version.ok()?.path().join("bin")));
    let complete = |folder: &PathBuf| ["initdb", "postgres"].iter().all(|name| folder.join(name).is_file());
    env::split_paths(&path).chain(debian).find(complete)
}

/// If we are root: the user and group of `postgres`, or else of `nobody`.
pub fn lesser_user(ours: &Path) -> Option<(u32, u32)> {
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(ours).unwrap());
    if owner != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut numbers = line.split(':').skip(2).map_while(|field| field.parse().ok());
        Some((numbers.next()?, numbers.next()?))
    };
    ids("postgres").or_else(|| ids("nobody"))
}
