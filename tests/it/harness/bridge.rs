//! One run of the real binary, and its log as it is written.

use std::collections::BTreeMap;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

pub struct Bridge {
    child: Child,
    lines: watch::Receiver<Vec<Line>>,
}

/// A line of the log: its text, and its fields if it is JSON.
#[derive(Clone)]
struct Line {
    text: String,
    fields: Value,
}

impl Line {
    fn new(text: String) -> Line {
        let fields = serde_json::from_str(&text).unwrap_or_default();
        Line { text, fields }
    }

    /// Whether it has this event and these fields: `delivery_done ticket=1000 case=*:twitter:1`. A value
    /// may begin or end with `*`.
    fn matches(&self, wanted: &str) -> bool {
        let mut words = wanted.split(' ');
        let event = words.next().unwrap_or_default();
        self.has("event", event)
            && words.all(|word| word.split_once('=').is_some_and(|(name, value)| self.has(name, value)))
    }

    fn has(&self, name: &str, wanted: &str) -> bool {
        let value = match &self.fields[name] {
            Value::Null => return false,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match (wanted.strip_prefix('*'), wanted.strip_suffix('*')) {
            (Some(end), _) => value.ends_with(end),
            (None, Some(start)) => value.starts_with(start),
            (None, None) => value == wanted,
        }
    }
}

impl Bridge {
    /// `all_lines` gathers what every run of a test logged.
    pub fn spawn(
        wrapper: &[String],
        vars: &BTreeMap<&'static str, String>,
        all_lines: Arc<Mutex<Vec<String>>>,
    ) -> Bridge {
        let mut words = wrapper.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_casebridge")]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env_clear().envs(vars);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = watch::channel(Vec::new());
        let sender = Arc::new(sender);
        tokio::spawn(gather(child.stdout.take().unwrap(), sender.clone(), all_lines.clone()));
        tokio::spawn(gather(child.stderr.take().unwrap(), sender, all_lines));
        Bridge { child, lines }
    }

    /// Waits for a line with this event and these fields, and returns its text. They are written as in
    /// `delivery_done ticket=1000 case=*:twitter:1`.
    pub async fn wait_for(&self, line: &str) -> String {
        self.wait_for_nth(line, 1).await
    }

    /// Waits for the nth line with this event and these fields, from 1 on, and returns its text.
    pub async fn wait_for_nth(&self, wanted: &str, nth: usize) -> String {
        let mut lines = self.lines.clone();
        loop {
            let found = lines
                .borrow_and_update()
                .iter()
                .filter(|line| line.matches(wanted))
                .nth(nth - 1)
                .map(|line| line.text.clone());
            match found {
                Some(line) => return line,
                None if lines.changed().await.is_err() => {
                    panic!("casebridge ended without logging {wanted}:\n{}", self.log())
                }
                None => {}
            }
        }
    }

    /// How many lines with this event and these fields there are so far.
    pub fn count(&self, wanted: &str) -> usize {
        self.lines.borrow().iter().filter(|line| line.matches(wanted)).count()
    }

    /// Checks that the first lines with these events come in this order.
    pub fn assert_order(&self, events: &[&str]) {
        let lines = self.lines.borrow();
        let place = |event: &&str| lines.iter().position(|line| line.matches(event));
        let places: Vec<Option<usize>> = events.iter().map(place).collect();
        let is_ordered = places.iter().all(Option::is_some) && places.is_sorted();
        assert!(is_ordered, "{events:?} at {places:?} in:\n{}", self.log());
    }

    /// Waits until the process has logged `count` lines or has ended.
    pub async fn wait_for_lines(&self, count: usize) {
        let mut lines = self.lines.clone();
        while lines.borrow_and_update().len() < count && lines.changed().await.is_ok() {}
    }

    pub fn line_count(&self) -> usize {
        self.lines.borrow().len()
    }

    pub fn log(&self) -> String {
        self.lines.borrow().iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n")
    }

    /// SIGKILL, and the end of the process.
    pub async fn kill(self) {
        self.signal("-KILL").await;
        self.end().await;
    }

    /// SIGTERM, and the end of the process.
    pub async fn stop(self) -> ExitStatus {
        self.signal("-TERM").await;
        self.end().await
    }

    pub fn id(&self) -> String {
        self.child.id().unwrap().to_string()
    }

    /// The most memory that it has had resident so far, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix(" kB"));
        peak.unwrap().trim().parse::<u64>().unwrap() << 10
    }

    pub async fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.id()]).status().await.unwrap();
        assert!(sent.success());
    }

    /// Waits for the process to end.
    pub async fn end(mut self) -> ExitStatus {
        self.child.wait().await.unwrap()
    }

    /// The same, with all that it printed.
    pub async fn end_with_log(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().await.unwrap();
        while self.lines.changed().await.is_ok() {}
        (status, self.log())
    }
}

impl Drop for Bridge {
    /// Kills the process and waits for its end, so that it sends nothing to a stand-in of another test.
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        while let Ok(None) = self.child.try_wait() {
            std::thread::yield_now();
        }
    }
}

async fn gather(
    stream: impl AsyncRead + Unpin,
    lines: Arc<watch::Sender<Vec<Line>>>,
    all_lines: Arc<Mutex<Vec<String>>>,
) {
    let mut stream = BufReader::new(stream).lines();
    while let Ok(Some(line)) = stream.next_line().await {
        all_lines.lock().unwrap().push(line.clone());
        lines.send_modify(|lines| lines.push(Line::new(line)));
    }
}
