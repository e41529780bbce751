//! Five tickets as an agent sees them, for `docs/tickets/`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use casebridge_sandbox::zendesk::{Comment, ticket_page};
use serde_json::Value;

const TICKETS: &[&str] =
    &["twitter-post", "instagram-comment", "facebook-rule", "instagram-account-lost", "twitter-imitation"];

/// With `CASEBRIDGE_UPDATE_SNAPSHOTS=1` the pages are written instead of compared, and photographed if there is a
/// `chromium`.
#[test]
fn the_pages_in_the_documentation_show_the_tickets_of_today() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in TICKETS {
        let page = page(&root.join("tests/fixtures/tickets"), name);
        let path = root.join("docs/tickets").join(format!("{name}.html"));
        if std::env::var_os("CASEBRIDGE_UPDATE_SNAPSHOTS").is_some() {
            fs::write(&path, &page).unwrap();
            photograph(&path);
        }
        let expected =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(page, expected, "{}", path.display());
        assert!(path.with_extension("png").exists(), "{name} has no picture");
    }
}

fn page(fixtures: &Path, name: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_casebridge"))
        .args(["render", "--json"])
        .arg(fixtures.join(format!("{name}.json")))
        .env_clear()
        .envs([("SPREDFAST_LABEL_NAME", "VIP"), ("TICKET_TIME_ZONE", "Europe/Berlin")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let body: Value = serde_json::from_slice(&output.stdout).unwrap();
    let ticket = &body["ticket"];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let tags: Vec<String> = ticket["tags"].as_array().unwrap().iter().map(text).collect();
    let html = text(&ticket["comment"]["html_body"]);
    let comment = Comment { head: "casebridge · internal note".to_owned(), html };
    ticket_page(&text(&ticket["subject"]), &text(&ticket["priority"]), &tags, &[comment])
}

fn photograph(page: &Path) {
    let picture = page.with_extension("png");
    let chromium = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=920,460"])
        .arg(format!("--screenshot={}", picture.display()))
        .arg(page)
        .stderr(Stdio::null())
        .status();
    match chromium {
        Ok(status) => assert!(status.success(), "chromium made no picture of {}", page.display()),
        Err(error) => eprintln!("no picture of {}: chromium: {error}", page.display()),
    }
}
