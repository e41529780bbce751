//! The report of a check, as a screen and as JSON.

use std::time::Duration;

use serde::Serialize;

use crate::text::printable;

/// Why nothing is checked where a setting is missing; the row `configuration` names the setting.
pub const INCOMPLETE: &str = "its settings are missing or wrong";

/// The longest wait for one step of a check. No row takes more than three steps, one after the other.
pub const STEP: Duration = Duration::from_secs(9);

/// Runs one step of a check; `None` if it takes too long.
pub async fn within<T>(step: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(STEP, step).await.ok()
}

/// The result of one row; the later the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    Ok,
    /// The service works without it, or it could not be checked.
    Warning,
    Failed,
}

impl Mark {
    pub const ALL: [Mark; 3] = [Mark::Ok, Mark::Warning, Mark::Failed];

    /// The sign in front of a row.
    pub fn sign(self) -> char {
        match self {
            Mark::Ok => '✓',
            Mark::Warning => '!',
            Mark::Failed => '✗',
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub name: &'static str,
    pub mark: Mark,
    /// One line for each finding.
    pub text: String,
    /// What to do about it, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// The result for one of several things that share a row.
pub struct Finding {
    pub mark: Mark,
    pub text: String,
    /// Empty if there is nothing to do.
    pub remedy: String,
}

impl Finding {
    pub fn ok(text: impl Into<String>) -> Finding {
        Finding { mark: Mark::Ok, text: text.into(), remedy: String::new() }
    }

    pub fn warning(text: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { mark: Mark::Warning, text: text.into(), remedy: remedy.into() }
    }

    pub fn failed(text: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { mark: Mark::Failed, text: text.into(), remedy: remedy.into() }
    }

    pub fn not_checked(reason: &str) -> Finding {
        Finding::warning(format!("not checked: {reason}"), "")
    }
}

impl Row {
    /// The worst of the findings decides.
    pub fn of(name: &'static str, findings: impl IntoIterator<Item = Finding>) -> Row {
        let mut row = Row { name, mark: Mark::Ok, text: String::new(), remedy: None };
        let (mut texts, mut remedies) = (Vec::new(), Vec::new());
        for Finding { mark, text, remedy } in findings {
            row.mark = row.mark.max(mark);
            texts.push(printable(&text));
            if !remedy.is_empty() && !remedies.contains(&remedy) {
                remedies.push(remedy);
            }
        }
        row.text = texts.join("\n");
        row.remedy = (!remedies.is_empty()).then(|| remedies.join("; "));
        row
    }
}

/// All rows, in the order of the screen.
#[derive(Debug, Serialize)]
pub struct CheckReport {
    /// Nothing failed.
    pub ok: bool,
    pub rows: Vec<Row>,
}

impl CheckReport {
    pub fn of(rows: impl IntoIterator<Item = Row>) -> CheckReport {
        let rows: Vec<Row> = rows.into_iter().collect();
        CheckReport { ok: rows.iter().all(|row| row.mark != Mark::Failed), rows }
    }

    fn count(&self, mark: Mark) -> usize {
        self.rows.iter().filter(|row| row.mark == mark).count()
    }
}

/// Lines that one text may take; `--json` has all of it.
const LINES: usize = 8;
/// Where texts begin.
const INDENT: usize = 23;
/// As wide as the arrow before a remedy.
const FURTHER: &str = "  ";
/// Columns of texts on the narrowest terminal.
const LEAST: usize = 20;

impl CheckReport {
    /// The report in lines of at most `width` columns.
    pub fn screen(&self, width: usize) -> String {
        let mut screen = String::new();
        for row in &self.rows {
            let head = format!("{} {}", row.mark.sign(), row.name);
            push_block(&mut screen, width, &head, &row.text, "");
            if let Some(remedy) = &row.remedy {
                push_block(&mut screen, width, "", remedy, "→ ");
            }
        }
        screen.push_str(&match (self.count(Mark::Failed), self.count(Mark::Warning)) {
            (0, 0) => "\nEverything is in order.\n".to_owned(),
            (0, warnings) => format!("\nNothing is broken; {warnings} warning(s) (!).\n"),
            (failed, 0) => format!("\n{failed} broken (✗).\n"),
            (failed, warnings) => format!("\n{failed} broken (✗), {warnings} warning(s) (!).\n"),
        });
        screen
    }
}

/// Adds a text after its head, wrapped between words. Further parts of a line are indented, so that lines stay
/// distinguishable.
fn push_block(screen: &mut String, width: usize, mut head: &str, text: &str, lead: &str) {
    let room = width.saturating_sub(INDENT + FURTHER.len()).max(LEAST);
    let options = textwrap::Options::new(room).break_words(false);
    for line in text.lines() {
        let mut wrapped = textwrap::wrap(line, &options);
        if wrapped.len() > LINES {
            wrapped.truncate(LINES);
            wrapped.push("… (the rest: --json)".into());
        }
        for (number, part) in wrapped.iter().enumerate() {
            let lead = if number == 0 { lead } else { FURTHER };
            screen.push_str(format!("{head:<INDENT$}{lead}{part}").trim_end());
            screen.push('\n');
            head = "";
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_screen_is_aligned_and_wrapped() {
        let words = "word ".repeat(20);
        let report = CheckReport::of([
            Row::of("storage", [Finding::ok("SQLite")]),
            Row::of("khoros token", [Finding::failed(words, "do something"), Finding::ok("\u{1b}[31mred")]),
            Row::of("clock", [Finding::not_checked("no server answered with the time")]),
        ]);
        let screen = report.screen(80);
        let lines: Vec<&str> = screen.lines().collect();
        assert_eq!(lines[0], "✓ storage              SQLite");
        assert!(lines[1].starts_with("✗ khoros token         word word"), "{screen}");
        assert!(lines[2].starts_with("                         word"), "{screen}");
        assert_eq!(lines[3], "                        [31mred");
        assert_eq!(lines[4], "                       → do something");
        assert_eq!(lines[5], "! clock                not checked: no server answered with the time");
        assert_eq!(lines[7], "1 broken (✗), 1 warning(s) (!).");
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{screen}");
        assert!(!report.ok);
    }

    #[test]
    fn a_name_takes_no_more_than_its_place() {
        let name = format!("of \u{202e}Jane\n✗ storage {}", "Jane ".repeat(500));
        let report = CheckReport::of([Row::of("khoros token", [Finding::ok(name)])]);
        let screen = report.screen(80);
        assert!(screen.starts_with("✓ khoros token         of  Jane ✗ storage Jane Jane"), "{screen}");
        assert_eq!(screen.lines().count(), LINES + 3, "{screen}");
        assert!(!report.rows[0].text.contains('\n'));
    }

    #[test]
    fn the_worst_finding_decides() {
        let row = Row::of(
            "khoros label",
            [
                Finding::ok("a is fine"),
                Finding::failed("b is not", "mend b"),
                Finding::warning("c may be", ""),
            ],
        );
        assert_eq!((row.mark, row.text.as_str()), (Mark::Failed, "a is fine\nb is not\nc may be"));
        assert_eq!(row.remedy.as_deref(), Some("mend b"));
        let row = Row::of("khoros label", [Finding::ok("a"), Finding::ok("b")]);
        assert_eq!((row.mark, row.text.as_str(), row.remedy), (Mark::Ok, "a\nb", None));
    }
}
