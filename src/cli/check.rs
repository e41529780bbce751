//! `casebridge check`.

use std::io::{self, ErrorKind, Write};

use anstyle::Style;

use casebridge::check;
use casebridge::check::Moment;
use casebridge::report::Mark;

use super::progress::Progress;
use super::terminal::{self, GREEN, RED, YELLOW};

/// The widest output: longer lines are hard to read.
const WIDEST: usize = 120;
/// The width without a terminal.
const WIDTH: usize = 80;

/// Checks everything that `serve` needs, and with `alerts` sends a test to each receiver of notices. Returns whether
/// nothing is broken.
pub async fn check(moment: Moment, alerts: bool, as_json: bool) -> anyhow::Result<bool> {
    let progress = Progress::spinner("checking");
    let report = check::run(moment, alerts).await;
    drop(progress);
    let text = match as_json {
        true => format!("{}\n", terminal::json(&serde_json::to_string_pretty(&report)?)),
        false => coloured(&report.screen(terminal::width().unwrap_or(WIDTH).min(WIDEST))),
    };
    match anstream::AutoStream::auto(io::stdout().lock()).write_all(text.as_bytes()) {
        // A reader that closed the pipe may still need the exit code.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written?,
    }
    Ok(report.ok)
}

/// Colours the mark at the beginning of each row; other lines begin with spaces.
fn coloured(screen: &str) -> String {
    let mut coloured = String::with_capacity(screen.len());
    for line in screen.split_inclusive('\n') {
        let mark = Mark::ALL.into_iter().find(|mark| line.starts_with(mark.sign()));
        match mark {
            Some(mark) => {
                let (sign, style) = (mark.sign(), style(mark));
                coloured.push_str(&format!("{style}{sign}{style:#}{}", &line[sign.len_utf8()..]));
            }
            None => coloured.push_str(line),
        }
    }
    coloured
}

fn style(mark: Mark) -> Style {
    match mark {
        Mark::Ok => GREEN,
        Mark::Warning => YELLOW,
        Mark::Failed => RED,
    }
}
