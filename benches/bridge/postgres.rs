//! A throw-away PostgreSQL on loopback, from the installed binaries and with their defaults: unlike
//! that of the tests it waits for the disk. It ends when this process does, however that comes about:
//! its shell waits for the end of a pipe that we hold. PgBouncer is in front of it on another port, in
//! transaction mode, where it is installed.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::bridge::free_port;

pub struct Postgres {
    port: u16,
    /// PgBouncer's, if it is installed.
    pooler: Option<u16>,
    shell: Child,
}

const SCRIPT: &str = r#"
    folder=$1 port=$2 pooler=$3
    trap 'rm -rf "$folder"' EXIT
    initdb --pgdata="$folder/data" --username=postgres --auth=trust --encoding=UTF8 >/dev/null || exit 1
    postgres -D "$folder/data" -c listen_addresses=127.0.0.1 -c port="$port" \
        -c unix_socket_directories="$folder" 2>/dev/null &
    server=$!
    if [ "$pooler" ]; then
        echo '"postgres" ""' >"$folder/users.txt"
        cat >"$folder/pgbouncer.ini" <<END
[databases]
* = host=127.0.0.1 port=$port
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $pooler
unix_socket_dir =
auth_type = trust
auth_file = $folder/users.txt
pool_mode = transaction
END
        pgbouncer "$folder/pgbouncer.ini" 2>/dev/null &
    fi
    cat >/dev/null
    [ -z "$pooler" ] || kill -TERM $!
    kill -INT $server
    wait
"#;

impl Postgres {
    /// None if the binaries are not installed.
    pub async fn start() -> Option<Postgres> {
        let (path, has_pooler) = path_with_binaries()?;
        let ids = (id(&["-u", "postgres"]), id(&["-g", "postgres"]));
        let (folder, port) = (tempfile::tempdir().unwrap().keep(), free_port());
        let pooler = has_pooler.then(free_port);
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(&folder).arg(port.to_string());
        command.arg(pooler.map(|port| port.to_string()).unwrap_or_default()).env("PATH", path);
        command.current_dir(&folder).stdin(Stdio::piped()).stdout(Stdio::null());
        // Its own group: what interrupts us must not keep it from cleaning up.
        command.process_group(0);
        // PostgreSQL refuses to run as root.
        if let (Some(0), (Some(user), Some(group))) = (id(&["-u"]), ids) {
            chown(&folder, Some(user), Some(group)).unwrap();
            command.uid(user).gid(group);
        }
        let postgres = Postgres { port, pooler, shell: command.spawn().unwrap() };
        for _ in 0..300 {
            if PgConnection::connect(&postgres.url("postgres")).await.is_ok() {
                return Some(postgres);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("PostgreSQL does not start");
    }

    /// The address of a new, empty database.
    pub async fn new_database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut connection = PgConnection::connect(&self.url("postgres")).await.unwrap();
        connection.execute(AssertSqlSafe(format!("create database {name}"))).await.unwrap();
        // What the last measurement left to be written must not be paid for by the next.
        connection.execute("checkpoint").await.unwrap();
        self.url(&name)
    }

    /// The same, but through PgBouncer; none if it is not installed.
    pub async fn new_database_behind_pooler(&self) -> Option<String> {
        let pooler = self.pooler?;
        let direct = self.new_database().await;
        Some(direct.replace(&format!(":{}/", self.port), &format!(":{pooler}/")))
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// Where `initdb` and `postgres` are found, and whether `pgbouncer` is there, too; Debian keeps them off the
/// path.
fn path_with_binaries() -> Option<(std::ffi::OsString, bool)> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    folders.extend(debian.map(|version| version.path().join("bin")));
    folders.push("/usr/sbin".into());
    let installed = |name: &str| folders.iter().any(|folder| folder.join(name).is_file());
    let path = std::env::join_paths(&folders).unwrap();
    (installed("initdb") && installed("postgres")).then_some((path, installed("pgbouncer")))
}

/// A number that the command `id` prints.
fn id(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(arguments).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
