//! Templates for the texts of tickets, in Jinja's language. No I/O, no clock: the same item gives the same
//! bytes.
//!
//! Mistakes are found when a template is read: wrong syntax, an unknown name and, by rendering it for an item
//! with all fields and for one without any, an unknown filter or function. Fields that an item lacks are empty.

mod bounds;
mod context;
mod filters;
mod samples;

use std::io;
use std::sync::{Arc, LazyLock};

use jiff::tz::TimeZone;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use regex::Regex;

pub use context::{Context, Subject, author_name, handle, labels, template_names, visible_line};

use crate::destination::html::Html;
use crate::item::Item;
use crate::text::clean;

/// The steps of one rendering: enough for thousands of notes, and over within milliseconds.
const STEPS: u64 = 500_000;
/// The longest template: short enough that its nesting cannot exhaust the stack.
const TEMPLATE_BYTES: usize = 16 << 10;
/// The longest output; rendering stops there.
const OUTPUT_BYTES: usize = bounds::TEXT_BYTES;
/// More followers than anybody has: a template that uses the number as a length fails its trial.
const MANY_FOLLOWERS: &str = "2000000000";
/// The longest quotation of a template in a problem.
const DETAIL_CHARS: usize = 120;

/// A template that compiles.
#[derive(Clone, Debug)]
pub struct Template {
    name: String,
    source: String,
    format: Format,
    /// Whether it uses a field of `event`, as in `event.time`.
    uses_event_fields: bool,
    /// Contains only this template, under an empty name.
    environment: Arc<Environment<'static>>,
}

/// The format of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    /// Values are escaped, and none can be declared as markup.
    Html,
}

impl Template {
    /// Checks a template of plain text. `name` is the variable that it comes from.
    ///
    /// # Errors
    /// The mistake, with at most 120 characters of the template.
    pub fn new(name: &str, text: &str) -> Result<Template, String> {
        Template::of(Format::Text, name, text)
    }

    /// Checks a template of HTML, in which values are escaped and keep their line breaks.
    ///
    /// # Errors
    /// As [`Template::new`].
    pub fn html(name: &str, text: &str) -> Result<Template, String> {
        if text.contains("autoescape") {
            return Err("must not contain `autoescape`: casebridge escapes all values".to_owned());
        }
        Template::of(Format::Html, name, text)
    }

    /// A built-in template of plain text. It needs no check: tests render it.
    pub fn built_in(text: &str) -> Template {
        Template::compile(Format::Text, "built-in", text).0
    }

    /// A built-in template of HTML.
    pub fn built_in_html(text: &str) -> Template {
        Template::compile(Format::Html, "built-in", text).0
    }

    fn of(format: Format, name: &str, text: &str) -> Result<Template, String> {
        if text.len() > TEMPLATE_BYTES {
            return Err(format!("is longer than {TEMPLATE_BYTES} bytes"));
        }
        let (template, compiled) = Template::compile(format, name, text);
        compiled.map_err(|error| in_detail(&error))?;
        template.check_names()?;
        template.check_event()?;
        for followers in ["8424", MANY_FOLLOWERS] {
            template.try_on(&samples::post(followers)).map_err(|error| in_detail(&error))?;
        }
        // With few fields it may fail because one is missing, but not because of an unknown filter.
        for item in [Item::default(), samples::report()] {
            match template.try_on(&item) {
                Err(error) if is_unknown(error.kind()) => return Err(in_detail(&error)),
                _ => {}
            }
        }
        Ok(template)
    }

    /// A template that did not compile fails whenever it is rendered.
    fn compile(format: Format, name: &str, text: &str) -> (Template, Result<(), minijinja::Error>) {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        match format {
            Format::Text => environment.set_auto_escape_callback(|_| AutoEscape::None),
            Format::Html => escape_values(&mut environment),
        }
        bounds::bound_filters(&mut environment);
        filters::add_to(&mut environment);
        environment.set_fuel(Some(STEPS));
        environment.remove_global("debug");
        let compiled = environment.add_template_owned("", text.to_owned());
        let names = environment.get_template("").map(|template| template.undeclared_variables(true));
        let uses_event_fields = names.is_ok_and(|names| names.iter().any(|name| name.starts_with("event.")));
        let (name, source) = (name.to_owned(), text.to_owned());
        let environment = Arc::new(environment);
        (Template { name, source, format, uses_event_fields, environment }, compiled)
    }

    fn try_on(&self, item: &Item) -> Result<String, minijinja::Error> {
        self.render_with(&Context::new(&Subject {
            item,
            label: "Label",
            route: "route",
            is_public: false,
            notes: &item.notes,
            more_notes: 1,
            time_zone: &TimeZone::UTC,
        }))
    }

    /// The variable that it comes from.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn is_html(&self) -> bool {
        self.format == Format::Html
    }

    /// Renders it, up to a length that is more than a ticket takes.
    ///
    /// # Errors
    /// The kind of the failure and its line: nothing of the item.
    pub fn render(&self, context: &Context) -> Result<String, String> {
        self.render_with(context).map_err(|error| in_short(&error))
    }

    /// Renders an HTML template in at most `room` bytes: the filter `quote` cuts the text of the item if need
    /// be.
    ///
    /// # Errors
    /// The kind of the failure and its line, or that the rest is longer than `room`.
    pub fn render_html(&self, context: &Context, room: usize) -> Result<Html, String> {
        let render = |context: &Context| self.render(context).map(|html| Html::from_template(&html));
        let mut html = render(context)?;
        if html.bytes() > room {
            let rest = render(&context.clone().with_text_bytes(0))?.bytes();
            let without_text = Html::quote("x", 0).bytes();
            let text_bytes = (room + without_text).saturating_sub(rest);
            html = render(&context.clone().with_text_bytes(text_bytes))?;
        }
        match html.bytes() <= room {
            true => Ok(html),
            // Cut anywhere, it would be broken markup.
            false => Err("the rendered HTML is longer than a comment may be".to_owned()),
        }
    }

    fn render_with(&self, context: &Context) -> Result<String, minijinja::Error> {
        let mut output = Output::default();
        let values = context.value(self.uses_event_fields);
        let rendered = self.environment.get_template("")?.render_captured_to(values, &mut output).map(drop);
        match rendered {
            Err(_) if output.is_full => {}
            rendered => rendered?,
        }
        Ok(output.text())
    }

    /// An event with fields is an object: it equals no text, and has no length.
    fn check_event(&self) -> Result<(), String> {
        static COMPARED: LazyLock<Option<Regex>> = LazyLock::new(|| {
            let behind = r"\bevent\s*(==|!=|\||(not\s+)?in\b|is\b)";
            let before = r"(==|!=|\bin|\[)\s*event\s*([^.\w\s]|$)";
            Regex::new(&format!("{behind}|{before}")).ok()
        });
        let is_compared = COMPARED.as_ref().is_some_and(|compared| compared.is_match(&self.source));
        match self.uses_event_fields && is_compared {
            true => {
                Err("in a template that uses a field of `event`, write `event.name` instead of `event` in comparisons and filters"
                    .to_owned())
            }
            false => Ok(()),
        }
    }

    fn check_names(&self) -> Result<(), String> {
        let template = self.environment.get_template("").map_err(|error| in_short(&error))?;
        let mut unknown: Vec<String> = template.undeclared_variables(true).into_iter().collect();
        let globals: Vec<&str> = self.environment.globals().map(|(name, _)| name).collect();
        unknown.retain(|name| !context::is_known(name) && !globals.contains(&name.as_str()));
        unknown.sort();
        if unknown.is_empty() {
            return Ok(());
        }
        let unknown: Vec<String> = unknown.iter().map(|name| format!("`{}`", short(name))).collect();
        Err(format!("unknown names: {}; known names: {}", unknown.join(", "), template_names().join(", ")))
    }
}

/// Escapes every value and keeps line breaks and spaces, which minijinja's own escaping lets collapse.
fn escape_values(environment: &mut Environment<'static>) {
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.remove_filter("safe");
    filters::add_html_to(environment);
    environment.set_formatter(|out, state, value| match value.as_str().filter(|_| !value.is_safe()) {
        Some(text) => Ok(out.write_str(&filters::escaped_line(&clean(text)))?),
        None => minijinja::escape_formatter(out, state, value),
    });
}

fn is_unknown(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::UnknownFilter
            | ErrorKind::UnknownTest
            | ErrorKind::UnknownFunction
            | ErrorKind::UnknownMethod
    )
}

fn in_short(error: &minijinja::Error) -> String {
    let kind = match error.kind() {
        ErrorKind::OutOfFuel => "too many steps".to_owned(),
        kind => kind.to_string(),
    };
    match error.line() {
        Some(line) => format!("{kind} in line {line}"),
        None => kind,
    }
}

/// The failure with its detail, for templates that were rendered without a customer's item.
fn in_detail(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {}", in_short(error), short(detail)),
        None => in_short(error),
    }
}

fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(DETAIL_CHARS).collect()
}

/// Refuses further bytes when it is full, which ends the rendering.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    is_full: bool,
}

impl Output {
    fn text(self) -> String {
        match String::from_utf8(self.bytes) {
            Ok(text) => text,
            // Cut within a character.
            Err(error) => {
                let whole = error.utf8_error().valid_up_to();
                String::from_utf8_lossy(&error.as_bytes()[..whole]).into_owned()
            }
        }
    }
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(OUTPUT_BYTES - self.bytes.len());
        if taken == 0 && !bytes.is_empty() {
            self.is_full = true;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
