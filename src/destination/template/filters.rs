//! The filters that templates have beside minijinja's own. In HTML, each one escapes its input.

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, State};

use super::context::TEXT_BYTES_NAME;
use crate::destination::html::{self, Html};
use crate::text;

/// The bytes of HTML that `facts` makes at most.
const FACTS_BYTES: usize = 20_000;

/// Adds the filters that make text.
pub fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter("line", |value: &Value| html::line(&string(value)));
    environment.add_filter("time", |value: &Value| text::time(&html::line(&string(value))));
}

/// Adds the filters that make HTML.
pub fn add_html_to(environment: &mut Environment<'static>) {
    environment.add_filter("link", |value: &Value| safe(&Html::link(&string(value))));
    environment.add_filter("quote", quote);
    environment.add_filter("facts", facts);
}

/// A text of several lines as a quotation: of `bytes` at most, or as long as there is room for it.
fn quote(state: &State, value: &Value, bytes: Option<usize>) -> Value {
    let room = || state.lookup(TEXT_BYTES_NAME).and_then(|room| room.as_usize());
    safe(&Html::quote(&string(value), bytes.or_else(room).unwrap_or(usize::MAX)))
}

/// Pairs of a name and a value as the lines of a paragraph. A pair without a value has no line. With
/// `link=true`, web addresses become links.
fn facts(pairs: &Value, options: Kwargs) -> Result<Value, Error> {
    let link = options.get::<Option<bool>>("link")?.unwrap_or_default();
    options.assert_all_used()?;
    let mut lines: Vec<String> = Vec::new();
    let mut room = FACTS_BYTES;
    for pair in pairs.try_iter()? {
        let value = pair.get_item_by_index(1)?;
        let value = match value.is_safe() {
            true => string(&value),
            false if link => Html::link(&string(&value)).as_str().to_owned(),
            false => html::escaped(&html::line(&string(&value))),
        };
        if value.is_empty() {
            continue;
        }
        let line = format!("{}: {value}", html::escaped(&html::line(&string(&pair.get_item_by_index(0)?))));
        match room.checked_sub(line.len()) {
            Some(left) => room = left,
            None => {
                lines.push("(more in Khoros)".to_owned());
                break;
            }
        }
        lines.push(line);
    }
    Ok(match lines.is_empty() {
        true => Value::from(""),
        false => Value::from_safe_string(format!("<p>{}</p>", lines.join("<br>"))),
    })
}

fn string(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn safe(html: &Html) -> Value {
    Value::from_safe_string(html.as_str().to_owned())
}
