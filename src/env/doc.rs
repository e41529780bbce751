//! The documentation of settings: `casebridge settings` makes the tables of
//! `docs/configuration.md` and other documents from it.
//!
//! Each module lists its settings with `variables!`, next to where it reads them.

use super::typos::Names;

/// The settings of one module.
pub struct Section {
    pub title: &'static str,
    /// A Markdown paragraph in front of the table; may be empty.
    pub intro: &'static str,
    pub groups: &'static [Group],
    /// A name with one of these prefixes is meant for this module, even if it is misspelt.
    pub prefixes: &'static [&'static str],
}

/// Settings whose names have the same prefix.
pub struct Group {
    /// `TICKET_`, [`ROUTE`], or nothing.
    pub prefix: &'static str,
    /// Whether each of them can also be set for one route: `ROUTE_<NAME>_TICKET_PRIORITY`.
    pub per_route: bool,
    pub settings: &'static [Doc],
}

/// The prefix of settings that exist only for a route.
pub const ROUTE: &str = "ROUTE_<NAME>_";

impl Group {
    pub const fn new(prefix: &'static str, settings: &'static [Doc]) -> Group {
        Group { prefix, per_route: false, settings }
    }

    pub const fn per_route(prefix: &'static str, settings: &'static [Doc]) -> Group {
        Group { prefix, per_route: true, settings }
    }

    /// The full names of its settings.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.settings.iter().map(|doc| self.name(doc))
    }

    /// The full name of one of its settings.
    pub fn name(&self, doc: &Doc) -> String {
        format!("{}{}", self.prefix, doc.name())
    }

    fn add_to(&self, names: &mut Names) {
        match self.prefix {
            ROUTE => names.route_ends.extend(self.settings.iter().map(Doc::name)),
            _ => names.variables.extend(self.names()),
        }
        if self.per_route {
            names.route_ends.extend(self.names());
        }
    }
}

impl Section {
    pub fn add_to(&self, names: &mut Names) {
        self.groups.iter().for_each(|group| group.add_to(names));
        names.prefixes.extend(self.prefixes);
    }
}

/// The documentation of one variable.
#[derive(Clone, Copy)]
pub struct Doc {
    field: &'static str,
    /// Markdown. The first paragraph is for all documents, the others only for `docs/configuration.md`, whose
    /// folder relative links start from.
    text: &'static str,
    pub kind: Kind,
    /// Follows the default, or says when the setting is required.
    pub note: &'static str,
    pub example: &'static str,
    /// The entry in `app.json`; `None` if it has none.
    pub app: Option<App>,
}

/// What happens if a variable is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The usual setup does not start without it.
    Required,
    /// Required under the condition in the note.
    Needed,
    Default(&'static str),
    Unset,
    /// The host sets it; nobody else should.
    Host,
    /// An old name, or the name of a superseded setting.
    Old,
}

/// An entry of `app.json`, from which Heroku makes a form.
#[derive(Clone, Copy)]
pub struct App {
    /// Replaces the documentation's first paragraph unless it is empty.
    pub text: &'static str,
    pub required: bool,
    /// Heroku generates a secret.
    pub generated: bool,
}

pub const fn required() -> Doc {
    Doc { field: "", text: "", kind: Kind::Required, note: "", example: "", app: None }
}

/// `when` follows the word "required".
pub const fn needed(when: &'static str) -> Doc {
    Doc { kind: Kind::Needed, ..required().note(when) }
}

pub const fn default(value: &'static str) -> Doc {
    Doc { kind: Kind::Default(value), ..required() }
}

pub const fn unset() -> Doc {
    Doc { kind: Kind::Unset, ..required() }
}

pub const fn set_by(host: &'static str) -> Doc {
    Doc { kind: Kind::Host, ..required().note(host) }
}

pub const fn old_name() -> Doc {
    Doc { kind: Kind::Old, ..required() }
}

impl Doc {
    pub const fn note(self, note: &'static str) -> Doc {
        Doc { note, ..self }
    }

    pub const fn example(self, example: &'static str) -> Doc {
        Doc { example, ..self }
    }

    /// Includes it in `app.json`.
    pub const fn app(self) -> Doc {
        self.app_text("")
    }

    /// Includes it in `app.json` with this text.
    pub const fn app_text(self, text: &'static str) -> Doc {
        let required = matches!(self.kind, Kind::Required);
        Doc { app: Some(App { text, required, generated: false }), ..self }
    }

    /// Includes it in `app.json` with this text, as a setting that may stay empty.
    pub const fn app_optional(self, text: &'static str) -> Doc {
        Doc { app: Some(App { text, required: false, generated: false }), ..self }
    }

    /// Includes it in `app.json` with this text, as a secret that Heroku generates.
    pub const fn app_generated(self, text: &'static str) -> Doc {
        Doc { app: Some(App { text, required: true, generated: true }), ..self }
    }

    /// Completes an entry of `variables!`.
    pub const fn named(self, field: &'static str, text: &'static str) -> Doc {
        Doc { field, text, ..self }
    }

    /// The name without the group's prefix.
    pub fn name(&self) -> String {
        super::upper(self.field)
    }

    /// The first paragraph, on one line.
    pub fn summary(&self) -> String {
        paragraphs(self.text).next().unwrap_or_default()
    }

    /// The whole text, on one line.
    pub fn meaning(&self) -> String {
        paragraphs(self.text).collect::<Vec<_>>().join(" ")
    }
}

fn paragraphs(text: &str) -> impl Iterator<Item = String> {
    let lines = text.split("\n\n").map(|lines| lines.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.filter(|paragraph| !paragraph.is_empty())
}
