//! What a check came to, as a screen and as JSON.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

/// How one row turned out; the later the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    Ok,
    /// The service does without it, or it could not be looked at.
    Warning,
    Failed,
}

impl Mark {
    fn sign(self) -> char {
        match self {
            Mark::Ok => '✓',
            Mark::Warning => '!',
            Mark::Failed => '✗',
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub name: &'static str,
    pub mark: Mark,
    /// What was found; a line for each of several things.
    pub text: String,
    /// What to do about it, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// What was found of one of several things that share a row.
pub struct Finding {
    pub mark: Mark,
    pub text: String,
    pub remedy: &'static str,
}

impl Finding {
    pub fn ok(text: impl Into<String>) -> Finding {
        Finding { mark: Mark::Ok, text: text.into(), remedy: "" }
    }

    pub fn warning(text: impl Into<String>, remedy: &'static str) -> Finding {
        Finding { mark: Mark::Warning, text: text.into(), remedy }
    }

    pub fn failed(text: impl Into<String>, remedy: &'static str) -> Finding {
        Finding { mark: Mark::Failed, text: text.into(), remedy }
    }
}

impl Row {
    pub fn ok(name: &'static str, text: impl Into<String>) -> Row {
        Row { name, mark: Mark::Ok, text: printable(&text.into()), remedy: None }
    }

    pub fn warning(name: &'static str, text: impl Into<String>, remedy: Option<String>) -> Row {
        Row { name, mark: Mark::Warning, text: printable(&text.into()), remedy }
    }

    pub fn failed(name: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Row {
        Row { name, mark: Mark::Failed, text: printable(&text.into()), remedy: Some(remedy.into()) }
    }

    pub fn not_checked(name: &'static str, why: &str) -> Row {
        Row::warning(name, format!("not checked: {why}"), None)
    }

    /// The worst of the findings decides.
    pub fn of(name: &'static str, findings: &[Finding]) -> Row {
        let mark = findings.iter().map(|finding| finding.mark).max().unwrap_or(Mark::Ok);
        let text: Vec<String> = findings.iter().map(|finding| finding.text.replace('\n', " ")).collect();
        let mut remedies: Vec<&str> = Vec::new();
        for finding in findings.iter().filter(|finding| !finding.remedy.is_empty()) {
            if !remedies.contains(&finding.remedy) {
                remedies.push(finding.remedy);
            }
        }
        let remedy = (!remedies.is_empty()).then(|| remedies.join("; "));
        Row { name, mark, text: printable(&text.join("\n")), remedy }
    }
}

/// Without what could take over a terminal, or turn the order of what is on it: a name can be anything.
fn printable(text: &str) -> String {
    let is_odd = |c: char| c.is_control() && c != '\n' || TURNING.contains(&c);
    text.chars().map(|c| if is_odd(c) { ' ' } else { c }).collect()
}

/// Characters that change the direction of writing.
const TURNING: [char; 12] = [
    '\u{61c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}',
    '\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}',
];

/// All rows, in the order of the screen.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Nothing failed.
    pub ok: bool,
    pub rows: Vec<Row>,
}

impl Report {
    pub fn of(rows: impl IntoIterator<Item = Row>) -> Report {
        let rows: Vec<Row> = rows.into_iter().collect();
        Report { ok: rows.iter().all(|row| row.mark != Mark::Failed), rows }
    }

    fn count(&self, mark: Mark) -> usize {
        self.rows.iter().filter(|row| row.mark == mark).count()
    }
}

/// Columns of the screen; few terminals have less.
const WIDTH: usize = 80;
/// Lines that one text may take; `--json` has all of it.
const LINES: usize = 8;
/// Where texts begin.
const INDENT: usize = 23;
/// As wide as the arrow before a remedy.
const FURTHER: &str = "  ";

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for row in &self.rows {
            let head = format!("{} {}", row.mark.sign(), row.name);
            write_block(f, &head, &row.text, "")?;
            if let Some(remedy) = &row.remedy {
                write_block(f, "", remedy, "→ ")?;
            }
        }
        match (self.count(Mark::Failed), self.count(Mark::Warning)) {
            (0, 0) => writeln!(f, "\nEverything is as it should be."),
            (0, warnings) => writeln!(f, "\nNothing is broken; {warnings} to look at (!)."),
            (failed, 0) => writeln!(f, "\n{failed} broken (✗)."),
            (failed, warnings) => writeln!(f, "\n{failed} broken (✗), {warnings} to look at (!)."),
        }
    }
}

/// Text beside its head, wrapped between words. What goes on is set in, so that each line of the text
/// can be told from the next.
fn write_block(f: &mut Formatter<'_>, head: &str, text: &str, lead: &str) -> fmt::Result {
    let mut head = head;
    for line in text.lines() {
        let mut wrapped = wrapped(line, WIDTH - INDENT - FURTHER.len());
        if wrapped.len() > LINES {
            wrapped.truncate(LINES);
            wrapped.push("… (the rest: --json)".to_owned());
        }
        for (number, part) in wrapped.iter().enumerate() {
            let lead = if number == 0 { lead } else { FURTHER };
            writeln!(f, "{}", format!("{head:<INDENT$}{lead}{part}").trim_end())?;
            head = "";
        }
    }
    Ok(())
}

/// A word that is longer than a line has a line of its own.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_screen_is_aligned_and_wrapped() {
        let words = "word ".repeat(20);
        let report = Report::of([
            Row::ok("storage", "SQLite"),
            Row::failed("khoros token", format!("{words}\n\u{1b}[31mred"), "do something"),
            Row::not_checked("clock", "nobody told the time"),
        ]);
        let screen = report.to_string();
        let lines: Vec<&str> = screen.lines().collect();
        assert_eq!(lines[0], "✓ storage              SQLite");
        assert!(lines[1].starts_with("✗ khoros token         word word"), "{screen}");
        assert!(lines[2].starts_with("                         word"), "{screen}");
        assert_eq!(lines[3], "                       [31mred");
        assert_eq!(lines[4], "                       → do something");
        assert_eq!(lines[5], "! clock                not checked: nobody told the time");
        assert_eq!(lines[7], "1 broken (✗), 1 to look at (!).");
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH), "{screen}");
        assert!(!report.ok);
    }

    #[test]
    fn a_name_takes_no_more_than_its_place() {
        let name = format!("of \u{202e}Jane\n✗ storage {}", "Jane ".repeat(500));
        let report = Report::of([Row::of("khoros token", &[Finding::ok(name)])]);
        let screen = report.to_string();
        assert!(screen.starts_with("✓ khoros token         of Jane ✗ storage Jane Jane"), "{screen}");
        assert_eq!(screen.lines().count(), LINES + 3, "{screen}");
        assert!(!report.rows[0].text.contains('\n'));
    }

    #[test]
    fn the_worst_finding_decides() {
        let row = Row::of(
            "khoros label",
            &[
                Finding::ok("a is fine"),
                Finding::failed("b is not", "mend b"),
                Finding::warning("c may be", ""),
            ],
        );
        assert_eq!((row.mark, row.text.as_str()), (Mark::Failed, "a is fine\nb is not\nc may be"));
        assert_eq!(row.remedy.as_deref(), Some("mend b"));
        let row = Row::of("khoros label", &[Finding::ok("a"), Finding::ok("b")]);
        assert_eq!((row.mark, row.text.as_str(), row.remedy), (Mark::Ok, "a\nb", None));
    }
}
