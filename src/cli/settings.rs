//! `casebridge settings`: prints the documentation of the settings, and no values of the environment.

use std::fmt::Write as _;
use std::io::Write as _;

use casebridge::config;
use casebridge::env::doc::{App, Doc, Group, Kind, ROUTE, Section};
use serde::Serializer;
use serde_json::{Value, json};

/// The documents.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Format {
    /// The tables of docs/configuration.md
    Markdown,
    /// The file .env.example
    Env,
    /// The object `env` of app.json
    Json,
}

const WIDTH: usize = 100;

/// Prints one document.
pub fn settings(format: Format) -> anyhow::Result<()> {
    let text = match format {
        Format::Markdown => markdown(),
        Format::Env => env(),
        Format::Json => json()?,
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn markdown() -> String {
    config::sections().map(markdown_section).collect::<Vec<_>>().join("\n")
}

fn markdown_section(section: &Section) -> String {
    let mut text = format!("## {}\n\n", section.title);
    if !section.intro.is_empty() {
        let _ = writeln!(text, "{}\n", section.intro);
    }
    let mut is_open = false;
    for group in section.groups {
        if let Some(example) = per_route(group) {
            let blank = if is_open { "\n" } else { "" };
            let _ = writeln!(text, "{blank}Each of these can also be set for one route, as `{example}`:\n");
        }
        if !is_open || group.per_route {
            text.push_str("| Variable | Default | Meaning |\n|---|---|---|\n");
        }
        is_open = true;
        for doc in group.settings {
            let _ = writeln!(text, "| `{}` | {} | {} |", group.name(doc), default(doc), meaning(doc));
        }
    }
    text
}

/// An example of a group's names for one route.
fn per_route(group: &Group) -> Option<String> {
    let first = group.settings.first().filter(|_| group.per_route)?;
    Some(format!("{ROUTE}{}", group.name(first)))
}

/// The cell "Default".
fn default(doc: &Doc) -> String {
    let note = doc.note;
    match doc.kind {
        Kind::Required if note.is_empty() => "**required**".to_owned(),
        Kind::Required => format!("**required** {note}"),
        Kind::Needed => format!("required {note}"),
        Kind::Default(value) if note.is_empty() => format!("`{value}`"),
        Kind::Default(value) => format!("`{value}`; {note}"),
        Kind::Unset | Kind::Old => note.to_owned(),
        Kind::Host => format!("set by {note}"),
    }
}

fn meaning(doc: &Doc) -> String {
    match doc.example {
        "" => doc.meaning(),
        example => format!("{} Example: `{example}`.", doc.meaning()),
    }
}

const HEADER: &str = "\
# Settings of casebridge, for `docker run --env-file`, a systemd EnvironmentFile, or a shell
# (set -a; . ./.env; set +a). casebridge itself reads the environment and no file.
# Copy this file to .env and fill in the first part. An empty value counts as not set.
# docs/configuration.md has more on each of them.
";

fn env() -> String {
    let mut text = HEADER.to_owned();
    let _ = write!(text, "\n{}", env_title("Required"));
    for section in config::sections() {
        env_settings(&mut text, section, is_required);
    }
    for section in config::sections() {
        let _ = write!(text, "\n{}", env_title(section.title));
        if !section.intro.is_empty() {
            let _ = writeln!(text, "{}", env_comment(section.intro));
        }
        env_settings(&mut text, section, is_optional);
    }
    text
}

fn env_title(title: &str) -> String {
    format!("# --- {title} {}\n\n", "-".repeat(WIDTH - 7 - title.len()))
}

fn env_settings(text: &mut String, section: &Section, is_included: fn(&Doc) -> bool) {
    for group in section.groups {
        let mut included = group.settings.iter().filter(|doc| is_included(doc)).peekable();
        if let Some(example) = per_route(group).filter(|_| included.peek().is_some()) {
            text.push_str(&env_comment(&format!(
                "Each of these can also be set for one route, as {example}."
            )));
            text.push('\n');
        }
        for doc in included {
            env_setting(text, &group.name(doc).replace("<NAME>", "VIP"), doc);
        }
    }
}

fn env_setting(text: &mut String, name: &str, doc: &Doc) {
    text.push_str(&env_comment(&format!("{}{}", doc.summary(), condition(doc))));
    let _ = match doc.kind {
        Kind::Required => writeln!(text, "{name}="),
        Kind::Default(value) => writeln!(text, "#{name}={}", quoted(value)),
        _ => writeln!(text, "#{name}={}", doc.example),
    };
}

/// A value as a shell reads it.
fn quoted(value: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_-.,:/@%+[]".contains(c);
    match value.chars().all(is_plain) {
        true => value.to_owned(),
        false => format!("'{}'", value.replace('\'', "'\\''")),
    }
}

/// A sentence about the default.
fn condition(doc: &Doc) -> String {
    match (doc.kind, doc.note) {
        (Kind::Required | Kind::Unset, "") => String::new(),
        (Kind::Required | Kind::Needed, note) => format!(" Required {note}."),
        (Kind::Default(_) | Kind::Unset, _) => format!(" Default: {}.", default(doc)),
        (Kind::Host | Kind::Old, _) => String::new(),
    }
}

fn env_comment(markdown: &str) -> String {
    let lines = textwrap::Options::new(WIDTH).initial_indent("# ").subsequent_indent("# ").break_words(false);
    format!("{}\n", textwrap::fill(&plain(markdown), lines))
}

/// Removes Markdown's markup. A link becomes its text and, in parentheses, the page it leads to.
fn plain(markdown: &str) -> String {
    let mut text = String::new();
    let mut rest = markdown;
    while let Some((before, after)) = rest.split_once("](") {
        let (start, label) = before.rsplit_once('[').unwrap_or((before, ""));
        let (target, after) = after.split_once(')').unwrap_or((after, ""));
        let page = target.split('#').next().unwrap_or_default();
        text.extend([start, label, " (docs/", page, ")"]);
        rest = after;
    }
    text.push_str(rest);
    text.replace(['`', '*'], "")
}

fn json() -> anyhow::Result<String> {
    let entries = config::sections().flat_map(|section| section.groups);
    let entries = entries.flat_map(|group| group.settings.iter().map(|doc| (group.name(doc), doc)));
    let entries = entries.filter_map(|(name, doc)| Some((name, app_entry(doc, doc.app?))));
    let mut bytes = Vec::new();
    // A map of serde_json would lose the order.
    serde_json::Serializer::pretty(&mut bytes).collect_map(entries)?;
    bytes.push(b'\n');
    Ok(String::from_utf8(bytes)?)
}

fn app_entry(doc: &Doc, app: App) -> Value {
    let description = match (app.text, doc.example) {
        ("", "") => format!("{}{}", doc.summary(), condition(doc)),
        ("", example) => format!("{}{} Example: {example}", doc.summary(), condition(doc)),
        (text, _) => text.to_owned(),
    };
    let mut entry = json!({ "description": plain(&description) });
    if !app.required {
        entry["required"] = json!(false);
    }
    if app.generated {
        entry["generator"] = json!("secret");
    }
    entry
}

/// The part of `--help` that names the settings, in lines of at most `columns` columns.
pub fn help(columns: usize, heading: fn(&str) -> String) -> String {
    let required = config::sections().flat_map(|section| names(section, is_required));
    let mut text = heading("Required settings (environment variables; `casebridge settings` describes all):");
    text.push_str(&help_names(columns, required));
    for section in config::sections() {
        let of_routes = section.groups.iter().filter(|group| group.per_route);
        let of_routes = of_routes.map(|group| format!("{ROUTE}{}…", group.prefix));
        let names = names(section, is_optional).chain(of_routes);
        text.push_str(&heading(&format!("{}:", section.title)));
        text.push_str(&help_names(columns, names));
    }
    text
}

fn is_required(doc: &Doc) -> bool {
    doc.kind == Kind::Required
}

fn is_optional(doc: &Doc) -> bool {
    !matches!(doc.kind, Kind::Required | Kind::Host | Kind::Old)
}

fn names(section: &Section, is_included: fn(&Doc) -> bool) -> impl Iterator<Item = String> {
    section.groups.iter().flat_map(move |group| {
        let included = group.settings.iter().filter(move |doc| is_included(doc));
        included.map(|doc| group.name(doc))
    })
}

fn help_names(columns: usize, names: impl Iterator<Item = String>) -> String {
    let names = names.collect::<Vec<_>>().join(" ");
    let lines =
        textwrap::Options::new(columns).initial_indent("  ").subsequent_indent("  ").break_words(false);
    format!("{}\n", textwrap::fill(&names, lines))
}
