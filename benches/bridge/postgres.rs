//! A throw-away PostgreSQL on loopback, from the installed binaries and with their defaults: unlike
//! that of the tests it waits for the disk. It ends when this process does, however that comes about:
//! its shell waits for the end of a pipe that we hold.

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
    shell: Child,
}

const SCRIPT: &str = r#"
    folder=$1 port=$2
    trap 'rm -rf "$folder"' EXIT
    initdb --pgdata="$folder/data" --username=postgres --auth=trust --encoding=UTF8 >/dev/null || exit 1
    postgres -D "$folder/data" -c listen_addresses=127.0.0.1 -c port="$port" \
        -c unix_socket_directories="$folder" 2>/dev/null &
    cat >/dev/null
    kill -INT $!
    wait
"#;

impl Postgres {
    /// None if the binaries are not installed.
    pub async fn start() -> Option<Postgres> {
        let path = path_with_binaries()?;
        let ids = (id(&["-u", "postgres"]), id(&["-g", "postgres"]));
        let (folder, port) = (tempfile::tempdir().unwrap().keep(), free_port());
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(&folder).arg(port.to_string()).env("PATH", path);
        command.current_dir(&folder).stdin(Stdio::piped()).stdout(Stdio::null());
        // Its own group: what interrupts us must not keep it from cleaning up.
        command.process_group(0);
        // PostgreSQL refuses to run as root.
        if let (Some(0), (Some(user), Some(group))) = (id(&["-u"]), ids) {
            chown(&folder, Some(user), Some(group)).unwrap();
            command.uid(user).gid(group);
        }
        let postgres = Postgres { port, shell: command.spawn().unwrap() };
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

/// Where `initdb` and `postgres` are found; Debian keeps them off the path.
fn path_with_binaries() -> Option<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    folders.extend(debian.map(|version| version.path().join("bin")));
    let installed = |name: &str| folders.iter().any(|folder| folder.join(name).is_file());
    (installed("initdb") && installed("postgres")).then(|| std::env::join_paths(&folders).unwrap())
}

/// A number that the command `id` tells.
fn id(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(arguments).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
