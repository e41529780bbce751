//! PgBouncer in front of the tests' PostgreSQL cluster, from the installed binary. Like the
//! cluster, it ends with this process.

use std::env;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use super::postgres::{Cluster, VARIABLE, lesser_user};

pub struct PgBouncer {
    cluster: u16,
    port: u16,
    _shell: Child,
}

/// It takes start-up options, and ignores them: only its sessions show that it is there.
const TRANSACTION_MODE: &str = "pool_mode = transaction\nignore_startup_parameters = options";
/// As it is installed, it refuses start-up options.
const SESSION_MODE: &str = "pool_mode = session";

const SCRIPT: &str = r#"
    "$1" "$2/pgbouncer.ini" &
    cat >/dev/null
    kill -TERM $!
    wait
    rm -rf "$2"
"#;

impl PgBouncer {
    /// The pooler of this run, in transaction mode; none if it or PostgreSQL is not installed and not required.
    pub fn get() -> Option<&'static PgBouncer> {
        static POOLER: OnceLock<Option<PgBouncer>> = OnceLock::new();
        let cluster = Cluster::get()?;
        let pooler = POOLER
            .get_or_init(|| binary().map(|binary| PgBouncer::start(&binary, cluster.port, TRANSACTION_MODE)));
        let required = env::var(VARIABLE).is_ok_and(|value| value == "required");
        assert!(pooler.is_some() || !required, "{VARIABLE}=required, and there is no PgBouncer");
        pooler.as_ref()
    }

    /// One more, in session mode; there has to be a first one.
    pub fn in_session_mode() -> PgBouncer {
        PgBouncer::start(&binary().unwrap(), Cluster::get().unwrap().port, SESSION_MODE)
    }

    /// The address of a database of the cluster, but through the pooler.
    pub fn url(&self, direct: &str) -> String {
        direct.replace(&format!(":{}/", self.cluster), &format!(":{}/", self.port))
    }

    fn start(binary: &Path, cluster: u16, mode: &str) -> PgBouncer {
        let folder = tempfile::tempdir().unwrap().keep();
        let port = super::free_port();
        // Few sessions, so that two instances share them.
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={cluster}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {}/users.txt\n\
             default_pool_size = 6\nmax_client_conn = 500\n{mode}\n",
            folder.display()
        );
        std::fs::write(folder.join("pgbouncer.ini"), settings).unwrap();
        std::fs::write(folder.join("users.txt"), "\"postgres\" \"\"\n").unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(binary).arg(&folder);
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        // It refuses to run as root, too.
        if let Some((user, group)) = lesser_user(&folder) {
            for path in [folder.clone(), folder.join("pgbouncer.ini"), folder.join("users.txt")] {
                chown(path, Some(user), Some(group)).unwrap();
            }
            command.uid(user).gid(group);
        }
        let mut shell = command.spawn().unwrap();
        let mut log = BufReader::new(shell.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let is_ready = log.by_ref().any(|line| {
            let is_ready = line.contains("process up");
            said.push(line);
            is_ready
        });
        assert!(is_ready, "PgBouncer does not start:\n{}", said.join("\n"));
        std::thread::spawn(move || log.for_each(drop));
        PgBouncer { cluster, port, _shell: shell }
    }
}

/// Debian keeps it off the path of a user.
fn binary() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join("pgbouncer")).find(|file| file.is_file())
}
