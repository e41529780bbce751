//! One run of the real binary, and its log as it is written.

use std::collections::BTreeMap;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

pub struct Bridge {
    child: Child,
    lines: watch::Receiver<Vec<String>>,
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
        command.args(words).env_clear().envs(vars).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = watch::channel(Vec::new());
        let sender = Arc::new(sender);
        tokio::spawn(gather(child.stdout.take().unwrap(), sender.clone(), all_lines.clone()));
        tokio::spawn(gather(child.stderr.take().unwrap(), sender, all_lines));
        Bridge { child, lines }
    }

    /// Waits for a line that holds this text, and returns it.
    pub async fn wait_for_log(&self, text: &str) -> String {
        self.wait_for_logs(text, 1).await
    }

    /// The same for so many lines; returns the last of them.
    pub async fn wait_for_logs(&self, text: &str, count: usize) -> String {
        self.wait_for_nth_line_with(&[text], count).await
    }

    /// Waits for a line that holds all of these texts, and returns it.
    pub async fn wait_for_line_with(&self, texts: &[&str]) -> String {
        self.wait_for_nth_line_with(texts, 1).await
    }

    /// The same of the line with this number, from 1 on.
    pub async fn wait_for_nth_line_with(&self, texts: &[&str], count: usize) -> String {
        let mut lines = self.lines.clone();
        let wanted = |line: &&String| texts.iter().all(|text| line.contains(text));
        loop {
            let found = lines.borrow_and_update().iter().filter(wanted).nth(count - 1).cloned();
            match found {
                Some(line) => return line,
                None if lines.changed().await.is_err() => {
                    panic!("the bridge ended without logging {texts:?}:\n{}", self.log())
                }
                None => {}
            }
        }
    }

    /// Waits until it has logged so many lines, or has ended.
    pub async fn wait_for_lines(&self, count: usize) {
        let mut lines = self.lines.clone();
        while lines.borrow_and_update().len() < count && lines.changed().await.is_ok() {}
    }

    pub fn line_count(&self) -> usize {
        self.lines.borrow().len()
    }

    pub fn log(&self) -> String {
        self.lines.borrow().join("\n")
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

    /// Waits for the process to end by itself.
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

async fn gather(
    stream: impl AsyncRead + Unpin,
    lines: Arc<watch::Sender<Vec<String>>>,
    all_lines: Arc<Mutex<Vec<String>>>,
) {
    let mut stream = BufReader::new(stream).lines();
    while let Ok(Some(line)) = stream.next_line().await {
        all_lines.lock().unwrap().push(line.clone());
        lines.send_modify(|lines| lines.push(line));
    }
}
