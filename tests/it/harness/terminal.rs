//! Runs the binary on a terminal of a given size.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};

use regex::Regex;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::World;

/// What a command wrote to its terminal, both outputs together, and its exit code.
pub struct Screen {
    pub text: String,
    pub code: Option<i32>,
}

impl Screen {
    /// The text without colours.
    pub fn plain(&self) -> String {
        colours().replace_all(&self.text, "").into_owned()
    }

    pub fn has_colours(&self) -> bool {
        colours().is_match(&self.text)
    }
}

fn colours() -> Regex {
    Regex::new("\u{1b}\\[[0-9;]*m").unwrap()
}

/// Runs the binary to its end on a terminal of `columns` columns, with these variables alone.
pub async fn on_terminal(columns: u16, variables: &[(&str, &str)], arguments: &[&str]) -> Screen {
    let mut command = Command::new(env!("CARGO_BIN_EXE_casebridge"));
    command.args(arguments).env_clear().env("TERM", "xterm").envs(variables.iter().copied());
    tokio::task::spawn_blocking(move || run(columns, command)).await.unwrap()
}

fn run(columns: u16, mut command: Command) -> Screen {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let other_end = ioctl_tiocgptpeer(&terminal, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&other_end, size).unwrap();
    let stdio = || Stdio::from(other_end.try_clone().unwrap());
    command.stdin(stdio()).stdout(stdio()).stderr(stdio());
    let mut child = command.spawn().unwrap();
    // The terminal ends when nobody has its other end any longer.
    drop((command, other_end));
    let (mut terminal, mut bytes) = (File::from(terminal), Vec::new());
    // Its end is an error.
    let _ = terminal.read_to_end(&mut bytes);
    let code = child.wait().unwrap().code();
    Screen { text: String::from_utf8(bytes).unwrap().replace("\r\n", "\n"), code }
}

impl World {
    /// Runs a subcommand on a terminal of `columns` columns.
    pub async fn on_terminal(&self, columns: u16, arguments: &[&str]) -> Screen {
        on_terminal(columns, &[("DATABASE_URL", &self.database.url)], arguments).await
    }
}
