//! Progress of commands that may take a while: on standard error, and only if that is a terminal.

use std::io::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often the display moves while nothing else happens.
const TICK: Duration = Duration::from_millis(120);

/// A line at the bottom of the terminal, which disappears when this is dropped.
pub struct Progress(ProgressBar);

impl Progress {
    /// Shows that a task is running, and for how long.
    pub fn spinner(task: &'static str) -> Progress {
        let bar = ProgressBar::new_spinner();
        start(bar, "{spinner} {prefix} {msg} ({elapsed})", task)
    }

    /// Shows how many of `total` are done.
    pub fn of(total: u64, task: &'static str) -> Progress {
        start(ProgressBar::new(total), "{prefix} [{bar:30}] {human_pos} of {human_len} ({elapsed})", task)
    }

    /// Shows how many bytes are written.
    pub fn of_bytes(task: &'static str) -> Progress {
        let template = "{prefix} [{bar:30}] {binary_bytes} of about {binary_total_bytes} ({elapsed})";
        start(ProgressBar::new(0), template, task)
    }

    pub fn set(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }

    /// Sets the text after the task of a spinner.
    pub fn describe(&self, text: String) {
        self.0.set_message(text);
    }

    /// Counts one more, and prints a line to standard output above the display.
    pub fn done(&self, line: Option<&str>) -> io::Result<()> {
        self.0.inc(1);
        match line {
            Some(line) => self.0.suspend(|| writeln!(io::stdout(), "{line}")),
            None => Ok(()),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn start(bar: ProgressBar, template: &str, task: &'static str) -> Progress {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(task);
    bar.tick();
    if !bar.is_hidden() {
        bar.enable_steady_tick(TICK);
    }
    Progress(bar)
}
