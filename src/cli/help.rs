//! The texts of `--help`, completions for shells, and manual pages.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use clap::Command;
use clap::builder::styling::Styles;
use clap_complete::Shell;

use super::settings;

const NAME: &str = "casebridge";
/// The widest help text, on any terminal.
const WIDEST: usize = 100;

/// Examples of each command; without a name, those of casebridge itself. A test finds commands without one.
const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "casebridge demo                    # the whole path, all on this machine",
            "casebridge check --before-start    # are all settings right?",
            "casebridge serve",
            "casebridge list --state dead       # what was given up, and why?",
        ],
    ),
    ("serve", &["set -a; . ./.env; set +a; casebridge serve"]),
    (
        "check",
        &[
            "casebridge check --before-start",
            "casebridge check --alerts",
            "casebridge check --json | jq -r '.rows[] | select(.mark == \"failed\") | .name'",
        ],
    ),
    (
        "demo",
        &[
            "casebridge demo",
            "casebridge demo --story outage",
            "TICKET_SUBJECT='{{ network }}: {{ text }}' casebridge demo --once",
        ],
    ),
    (
        "list",
        &[
            "casebridge list --state dead",
            "casebridge list --route vip --since 2026-11-26 --limit 200",
            "casebridge list --case khoros:1234:twitter:855485181481934848",
            "casebridge list --json | jq -r 'select(.ticket) | [.case, .ticket] | @tsv'",
        ],
    ),
    (
        "show",
        &[
            "casebridge show 1000    # the number of a ticket",
            "casebridge show khoros:1234:twitter:855485181481934848",
            "casebridge show https://twitter.com/author/status/855485181481934848 --texts",
        ],
    ),
    ("status", &["casebridge status", "casebridge status --watch"]),
    ("health", &["casebridge health || echo 'casebridge does not answer'"]),
    ("reconcile", &["casebridge reconcile", "casebridge reconcile --since 30d --json | jq .differences"]),
    ("rehearse", &["casebridge rehearse", "casebridge rehearse --yes-create-tickets"]),
    (
        "discard",
        &[
            "casebridge discard --route vip --dry-run",
            "casebridge discard --route vip --since 2026-11-26T14:00:00Z",
        ],
    ),
    (
        "render",
        &[
            "casebridge render notification.json",
            "casebridge render --template comment > comment.j2",
            "TICKET_COMMENT=\"$(cat comment.j2)\" casebridge render notification.json",
        ],
    ),
    ("settings", &["casebridge settings --format env > .env"]),
    ("unsubscribe", &["casebridge unsubscribe", "casebridge unsubscribe --external-id send-to-zendesk-old"]),
    (
        "backfill",
        &[
            "casebridge backfill --since 2026-05-01 --dry-run",
            "casebridge backfill --since 2026-05-01 --until 2026-05-08T12:00+02:00",
        ],
    ),
    ("backup", &["casebridge backup /backups/casebridge-$(date +%F).db"]),
    (
        "replay",
        &[
            "casebridge list --state dead              # first: what is dead, and why?",
            "casebridge replay --all-dead --dry-run",
            "casebridge replay --all-dead",
            "casebridge replay khoros:1234:twitter:855485181481934848",
        ],
    ),
    (
        "completions",
        &[
            "casebridge completions bash > /etc/bash_completion.d/casebridge",
            "casebridge completions zsh > \"${fpath[1]}/_casebridge\"",
            "casebridge completions fish > ~/.config/fish/completions/casebridge.fish",
        ],
    ),
    ("man", &["casebridge man | man -l -", "sudo casebridge man /usr/local/share/man/man1"]),
];

const EXIT_CODES: &[(u8, &str)] = &[
    (0, "done, or stopped by a signal"),
    (
        1,
        "failed; for check: something is broken; for reconcile: something differs or was not compared; for \
         rehearse: an assumption is refuted, the rehearsal is incomplete, or a ticket is still open",
    ),
    (
        2,
        "trying again will not help: wrong configuration or arguments, or an unusable SQLite file or PostgreSQL \
         database",
    ),
];

/// Adds examples and exit codes to the help of the commands.
pub fn complete(command: Command) -> Command {
    let mut command = command.max_term_width(WIDEST);
    for (name, examples) in EXAMPLES {
        let text = examples_text(examples);
        command = match *name {
            "" => command.after_long_help(format!("{text}\n{}", settings_and_codes())).after_help(text),
            name if command.find_subcommand(name).is_none() => command,
            name => command.mut_subcommand(name, |of_name| of_name.after_help(text)),
        };
    }
    command
}

fn examples_text(examples: &[&str]) -> String {
    let mut text = heading("Examples:");
    examples.iter().for_each(|example| text.extend(["  ", example, "\n"]));
    text
}

/// A heading as clap writes them.
fn heading(title: &str) -> String {
    let style = Styles::styled();
    let style = style.get_header();
    format!("{style}{title}{style:#}\n")
}

fn settings_and_codes() -> String {
    let columns = terminal_size::terminal_size().map_or(WIDEST, |(width, _)| width.0.into()).min(WIDEST);
    let mut text = settings::help(columns, heading);
    text.push('\n');
    text.push_str(&heading("Exit codes:"));
    for (code, meaning) in EXIT_CODES {
        let first = format!("  {code}  ");
        let options = textwrap::Options::new(columns).initial_indent(&first).subsequent_indent("     ");
        let _ = writeln!(text, "{}", textwrap::fill(meaning, options));
    }
    text
}

/// Prints the completions for a shell.
pub fn completions(mut command: Command, shell: Shell) -> io::Result<()> {
    // Into memory first: clap_complete panics if the reader of standard output has gone.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, NAME, &mut script);
    io::stdout().write_all(&script)
}

/// Writes the manual pages of all commands into a folder, or prints the page of casebridge itself.
pub fn man(command: Command, folder: Option<&Path>) -> anyhow::Result<()> {
    // Roff fills paragraphs, so the list of settings would run together.
    let command = command
        .after_long_help(format!("{}\nThe settings: casebridge settings", examples_text(EXAMPLES[0].1)));
    let Some(folder) = folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        return Ok(io::stdout().write_all(&page)?);
    };
    let unwritable = || format!("cannot write the manual pages to {}", folder.display());
    std::fs::create_dir_all(folder).with_context(unwritable)?;
    clap_mangen::generate_to(command, folder).with_context(unwritable)
}
