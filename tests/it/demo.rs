//! The demo: its stories, its size on the terminal, and the pages of its tickets.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Runs the demo to its end, and returns the lines that it printed.
async fn lines_of(arguments: &[&str]) -> Vec<String> {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_casebridge"));
    let output = demo.arg("demo").args(arguments).env_clear().output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{text}{:?}", output.stderr);
    text.lines().map(str::to_owned).collect()
}

/// Checks that the lines, and the cursor below them, fit into a terminal of 80 columns and 24 lines. The path of the
/// program and that of the temporary folder may be long.
fn assert_fits(lines: &[String]) {
    let short = |line: &String| line.replace(env!("CARGO_BIN_EXE_casebridge"), "target/release/casebridge");
    let lines: Vec<String> = lines.iter().map(short).collect();
    assert!(lines.len() < 24, "{lines:#?}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
}

/// Checks that there are lines that begin like this, in this order.
fn assert_steps(lines: &[String], steps: &[&str]) {
    let mut rest = lines.iter();
    for step in steps {
        assert!(rest.any(|line| line.starts_with(step)), "{step}: {lines:#?}");
    }
}

#[tokio::test]
async fn a_label_creates_a_ticket() {
    let lines = lines_of(&["--once"]).await;
    assert_fits(&lines);
    assert_steps(
        &lines,
        &[
            "1. subscribed",
            "2. label applied",
            "3. ticket 1000: [Twitter] @author: Post Text",
            "     Requester: author",
            "     | Post Text",
            "Next:",
            "  your accounts docs/deploy.md",
        ],
    );
}

#[tokio::test]
async fn an_outage_doubles_and_loses_no_ticket() {
    let lines = lines_of(&["--story", "outage", "--once"]).await;
    assert_fits(&lines);
    assert_steps(
        &lines,
        &[
            "3. Zendesk breaks down: it created ticket 1000",
            "4. casebridge pauses Zendesk",
            "   3 deliveries wait",
            "5. Zendesk works again",
            "   ticket 1000: found",
            "   ticket 1001: created",
            "   ticket 1002: created",
            "6. 3 labels, 3 tickets",
            "Next:",
        ],
    );
}

#[tokio::test]
async fn another_destination_is_shown_under_the_ticket() {
    let lines = lines_of(&["--with", "webhook", "--once"]).await;
    assert_steps(
        &lines,
        &["3. ticket 1000:", "     webhook: casebridge.ticket.created, signed, ticket 1000 created", "Next:"],
    );
}

#[tokio::test]
async fn a_message_in_slack_is_shown_under_the_ticket() {
    let lines = lines_of(&["--with", "slack", "--once"]).await;
    assert_steps(
        &lines,
        &["3. ticket 1000:", "     slack: a message", "     | ", "     | State: new ticket", "Next:"],
    );
}

/// A demo that stays up.
struct Running {
    _demo: Child,
    /// What it has printed.
    lines: Vec<String>,
    output: Lines<BufReader<ChildStdout>>,
    http: reqwest::Client,
}

/// Starts a demo, and waits until it says what to do next.
async fn start(arguments: &[&str]) -> Running {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_casebridge"));
    demo.arg("demo").args(arguments).env_clear().stdout(Stdio::piped()).kill_on_drop(true);
    let mut demo = demo.spawn().unwrap();
    let mut output = BufReader::new(demo.stdout.take().unwrap()).lines();
    let mut lines = Vec::new();
    while !lines.last().is_some_and(|line: &String| line.starts_with("  your accounts")) {
        lines.push(output.next_line().await.unwrap().expect("the demo ended"));
    }
    let http = casebridge_sandbox::http_client().build().unwrap();
    Running { _demo: demo, lines, output, http }
}

/// What a line says behind its name.
fn value(lines: &[String], name: &str) -> String {
    lines.iter().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
}

/// The demo stays up: its last lines say where to look and what to try.
#[tokio::test]
async fn its_tickets_can_be_seen_and_labels_can_be_applied() {
    let Running { _demo, lines, mut output, http } = start(&[]).await;
    assert_fits(&lines);
    let value = |name| value(&lines, name);
    let page = http.get(value("  see a ticket")).send().await.unwrap();
    assert!(page.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    let page = page.text().await.unwrap();
    assert!(page.contains("<h1>[Twitter] @author: Post Text</h1>"), "{page}");

    let address = value("  another post");
    let address = address.split('\'').rfind(|word| word.contains("/label")).unwrap();
    let label = async |text| {
        let applied = http.post(format!("http://{address}")).body(text).send().await.unwrap();
        assert_eq!(applied.text().await.unwrap(), "label applied, casebridge answered 200\n");
    };
    label("<b>\u{1b}[2J late</b>").await;
    let line = output.next_line().await.unwrap().unwrap();
    assert!(line.starts_with("ticket 1001: ") && !line.contains('\u{1b}'), "{line}");
    let page = http.get(value("  see a ticket").replace("1000", "1001")).send().await.unwrap();
    let page = page.text().await.unwrap();
    assert!(page.contains("late&lt;/b&gt;") && !page.contains("<b>"), "{page}");
}

/// The settings of a running demo are in a file: with them, the commands work beside it.
#[tokio::test]
async fn the_commands_work_beside_the_demo() {
    let Running { _demo, lines, mut output, http } = start(&[]).await;
    let command = value(&lines, "  its commands");
    let shell = async |command: String| {
        let output = Command::new("bash").args(["-c", &command]).env_clear().output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, list) = shell(command.clone()).await;
    assert!(code == Some(0) && list.contains("done") && list.ends_with("\n1 delivery\n"), "{list}");
    let check = command.replace(" list", " check");
    let (code, report) = shell(check).await;
    assert!(code == Some(0) && report.contains("leads to the running"), "{report}");
    assert_eq!(shell(command.replace(" list", " health")).await, (Some(0), "ok\n".to_owned()));

    let ticket = value(&lines, "  see a ticket");
    http.post(ticket.replace("/agent/tickets/1000", "/refuse")).send().await.unwrap();
    let label = value(&lines, "  another post");
    let label = label.split('\'').rfind(|word| word.contains("/label")).unwrap().to_owned();
    http.post(format!("http://{label}")).body("refused").send().await.unwrap();
    while !shell(format!("{command} --state dead")).await.1.contains("Zendesk answered 422") {}
    let (code, replayed) = shell(command.replace(" list", " replay --all-dead")).await;
    assert!(code == Some(0) && replayed.ends_with("\n1 replayed\n"), "{replayed}");
    while !output.next_line().await.unwrap().unwrap().starts_with("ticket 1001: ") {}
}

#[tokio::test]
async fn a_text_is_shown_under_the_ticket() {
    let lines = lines_of(&["--with", "twilio", "--once"]).await;
    let text = ["     text to +15551230147", "     | Ticket 1000 (CreateCase):"];
    assert_steps(&lines, &["3. ticket 1000:", text[0], text[1], "Next:"]);
}
