//! Renders an item as a ticket. Pure: the same item always gives the same bytes.

use std::sync::LazyLock;

use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::plan::{Fields, Plan, RequesterUser};
use super::settings::ticket::{CustomValue, FALLBACK_TAG, NO_AUTHOR_TAG, Requester, Ticket};
use super::text::{cut_line, first_chars, slug};
use crate::destination::html::{self, Html};
use crate::destination::template::{Context, Subject, Template, author_name, handle, labels, visible_line};
use crate::destination::zendesk::memory::Changes;
use crate::item::{Item, Kind, Note, Priority};
use crate::json;
use crate::text::{clean, clip, is_blank, time};

/// Zendesk documents no limit for a subject and was seen to cut at 255 characters.
const SUBJECT_GRAPHEMES: usize = 150;
/// One grapheme may have thousands of characters.
const SUBJECT_CHARS: usize = 2000;
/// Zendesk takes about 65,000 bytes of a comment, counted as HTML.
const COMMENT_BYTES: usize = 60_000;
const NOTES_BYTES: usize = 20_000;
/// The notes in a comment: more would push the post out of sight.
const NOTES: usize = 20;
/// The longest HTML of a note, as the built-in templates print it.
const NOTE_BYTES: usize = 4_000;
/// Zendesk documents no limit for the text of a custom field.
const CUSTOM_FIELD_BYTES: usize = 20_000;
/// The characters by which a note is recognized in a comment. A shorter note is recognized with its author.
const NOTE_START: usize = 200;
const SHORT_NOTE: usize = 12;
const USER_NAME_CHARS: usize = 200;
const TAG_LENGTH: usize = 80;
/// The tag that each ticket has.
pub const TAG: &str = "khoros";
/// The most tags of our own; configured tags come on top.
const TAGS: usize = 20;

/// The subject without `TICKET_SUBJECT`.
pub const SUBJECT: &str = include_str!("templates/subject.txt");
/// The first comment without `TICKET_COMMENT`.
pub const COMMENT: &str = include_str!("templates/comment.html");
/// A comment about a later event without `TICKET_UPDATE`.
pub const UPDATE: &str = include_str!("templates/update.html");
static SUBJECT_TEMPLATE: LazyLock<Template> = LazyLock::new(|| Template::built_in(SUBJECT));
static COMMENT_TEMPLATE: LazyLock<Template> = LazyLock::new(|| Template::built_in_html(COMMENT));
static AUTHOR_TEMPLATE: LazyLock<Template> =
    LazyLock::new(|| Template::built_in_html("<p>{{ [author.display_name, author.link|link]|row }}</p>"));
static UPDATE_TEMPLATE: LazyLock<Template> = LazyLock::new(|| Template::built_in_html(UPDATE));

/// Everything that a ticket is made of.
pub struct Draft<'a> {
    pub item: &'a Item,
    pub case_key: &'a str,
    /// The delivery's identity, by which one of our tickets is recognized.
    pub delivery: &'a str,
    pub route: &'a str,
    /// The label of the route: the event itself may lack it.
    pub label: &'a str,
    pub settings: &'a Ticket,
    pub plan: Plan,
    /// The user of the credential, if it is known.
    pub service_user: Option<u64>,
}

/// A ticket, and the templates that failed.
#[derive(Debug)]
pub struct Rendered {
    /// The body of `POST /api/v2/tickets`.
    pub ticket: Value,
    /// The first comment is public.
    pub is_public: bool,
    /// The notes that the first comment shows.
    pub notes: Vec<Note>,
    /// The failures of templates, for the log: they contain nothing of the item.
    pub failures: Vec<String>,
}

/// Renders the body of `POST /api/v2/tickets`.
pub fn render(draft: &Draft) -> Rendered {
    let Draft { item, label, settings, plan, .. } = *draft;
    let mut templates = Templates::new(draft);
    let (is_public, comment) = (is_public(item, settings), comment(draft, &mut templates));
    let mut ticket = json!({
        "subject": subject(draft, &mut templates),
        "comment": { "html_body": comment.as_str(), "public": is_public },
        "priority": item.priority(Priority::default()),
        "external_id": draft.case_key,
        "tags": tags(item, label, draft.route, settings, Some(plan)),
        "metadata": { "delivery": draft.delivery, "eventUuid": item.event_id.as_deref().map(html::line) },
    });
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            ticket[name] = value;
        }
    };
    set("requester_id", plan.requester.author().or(draft.service_user).map(Value::from));
    set("submitter_id", submitter(draft).map(Value::from));
    set("via_followup_source_id", plan.follow_up.map(Value::from));
    if plan.fields == Fields::Configured {
        set("priority", Some(json!(item.priority(settings.priority))));
        set("type", settings.kind.map(|kind| json!(kind)));
        set("status", settings.status.map(|status| json!(status)));
        set("group_id", settings.group_id.map(Value::from));
        set("assignee_id", settings.assignee_id.map(Value::from));
        set("brand_id", settings.brand_id.map(Value::from));
        set("ticket_form_id", settings.form_id.map(Value::from));
        set("custom_fields", custom_fields(settings, &mut templates));
    }
    let notes = shown_notes(&item.notes, &html::visible_text(comment.as_str(), ""), &settings.time_zone);
    Rendered { ticket: json!({ "ticket": ticket }), is_public, notes, failures: templates.failures }
}

/// An event that is about no post is for Khoros' users, and has no author who could read it.
fn is_public(item: &Item, settings: &Ticket) -> bool {
    settings.public && item.report.is_none()
}

/// The author of a post as a Zendesk user.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// `khoros:{network}:{id}`, which outlives a change of name: the user's `external_id`.
    pub key: String,
    pub name: String,
    /// Lines with the address and the handle, as far as they are known, for agents.
    pub details: String,
    /// The address of a picture.
    pub photo: Option<String>,
}

/// The author's profile. `None` without an id: several people may share a name.
pub fn author_profile(item: &Item) -> Option<Profile> {
    let network = item.network()?.to_lowercase();
    let id = item.author.id.as_deref()?;
    let bare = |handle: String| handle.trim_start_matches('@').to_owned();
    let name = author_name(item).or_else(|| handle(item).map(bare));
    let name = name
        .unwrap_or_else(|| format!("{} user {}", item.network_name().unwrap_or_default(), html::line(id)));
    let lines = [("Profile", visible_line(item.author.link.as_deref())), ("Handle", handle(item))];
    let lines = lines.into_iter().filter_map(|(name, value)| Some(format!("{name}: {}", value?)));
    let photo = item.author.icon.as_ref().filter(|icon| html::visible_host(icon).is_some());
    Some(Profile {
        // A comma would end the key where several are looked up at once.
        key: json::key(&format!("khoros:{network}:{}", id.replace('%', "%25").replace(',', "%2C"))),
        name: first_chars(&name, USER_NAME_CHARS),
        details: lines.collect::<Vec<_>>().join("\n"),
        photo: photo.cloned(),
    })
}

/// A comment about a later event.
#[derive(Debug)]
pub struct RenderedUpdate {
    pub comment: Html,
    /// As in [`Rendered`].
    pub failures: Vec<String>,
}

/// Renders an internal comment about a later event of a case that has a ticket.
pub fn render_update(
    item: &Item,
    label: &str,
    route: &str,
    settings: &Ticket,
    changes: &Changes,
) -> RenderedUpdate {
    let (notes, time_zone) = (fitting(&changes.notes), &settings.time_zone);
    let more_notes = changes.notes.len() - notes.len();
    let subject = Subject { item, label, route, is_public: false, notes, more_notes, time_zone };
    let context = Context::new(&subject).with_changes(changes.text_changed, changes.other_route, notes);
    let mut templates = Templates { context, failures: Vec::new() };
    let comment = templates.render_comment(settings.update.as_ref(), COMMENT_BYTES);
    let comment = comment.or_else(|| templates.render_comment(Some(&UPDATE_TEMPLATE), COMMENT_BYTES));
    let comment =
        comment.unwrap_or_else(|| Html::quote(item.text.as_deref().unwrap_or_default(), COMMENT_BYTES));
    RenderedUpdate { comment, failures: templates.failures }
}

/// Renders templates for one item, and collects their failures.
struct Templates {
    context: Context,
    failures: Vec<String>,
}

impl Templates {
    fn new(draft: &Draft) -> Templates {
        let Draft { item, label, route, .. } = *draft;
        let is_public = is_public(item, draft.settings);
        let all: &[Note] = if is_public { &[] } else { &item.notes };
        let notes = fitting(all);
        let (more_notes, time_zone) = (all.len() - notes.len(), &draft.settings.time_zone);
        let subject = Subject { item, label, route, is_public, notes, more_notes, time_zone };
        Templates { context: Context::new(&subject), failures: Vec::new() }
    }

    /// Renders a template as clean text. `None` if the text is empty or the template fails.
    fn render(&mut self, template: Option<&Template>) -> Option<String> {
        let template = template?;
        match template.render(&self.context) {
            Ok(text) => Some(clean(&text).trim().to_owned()).filter(|text| !text.is_empty()),
            Err(failure) => {
                self.fail(template, &failure);
                None
            }
        }
    }

    /// Renders the template of a comment in at most `room` bytes. `None` as above.
    fn render_comment(&mut self, template: Option<&Template>, room: usize) -> Option<Html> {
        let template = template?;
        if !template.is_html() {
            return self.render(Some(template)).map(|text| Html::quote(&text, room));
        }
        match template.render_html(&self.context, room) {
            Ok(html) => (!is_blank(&html::visible_text(html.as_str(), ""))).then_some(html),
            Err(failure) => {
                self.fail(template, &failure);
                None
            }
        }
    }

    fn fail(&mut self, template: &Template, failure: &str) {
        self.failures.push(format!("{}: {failure}", template.name()));
    }
}

/// The author of the comment: of an internal one the service user, of a public one the post's author.
fn submitter(draft: &Draft) -> Option<u64> {
    let author = draft.plan.requester.author();
    author.filter(|_| is_public(draft.item, draft.settings)).or(draft.service_user)
}

/// The custom fields that have a value.
fn custom_fields(settings: &Ticket, templates: &mut Templates) -> Option<Value> {
    let fields = settings.custom_fields.iter().filter_map(|custom| {
        let value = match &custom.value {
            CustomValue::Text(template) => json!(custom_text(template, templates)?),
            CustomValue::Number(number) => json!(number),
            CustomValue::Bool(bool) => json!(bool),
            CustomValue::List(list) => {
                let texts: Vec<String> =
                    list.iter().filter_map(|template| custom_text(template, templates)).collect();
                if texts.is_empty() {
                    return None;
                }
                json!(texts)
            }
        };
        Some(json!({ "id": custom.id, "value": value }))
    });
    let fields: Vec<Value> = fields.collect();
    (!fields.is_empty()).then(|| json!(fields))
}

fn custom_text(template: &Template, templates: &mut Templates) -> Option<String> {
    Some(clip(&templates.render(Some(template))?, CUSTOM_FIELD_BYTES, "…"))
}

/// The subject by the configured template, or by the built-in one.
fn subject(draft: &Draft, templates: &mut Templates) -> String {
    let subject = templates.render(draft.settings.subject.as_ref());
    let subject = subject.or_else(|| templates.render(Some(&SUBJECT_TEMPLATE)));
    cut_line(&subject.unwrap_or_default(), SUBJECT_GRAPHEMES, SUBJECT_CHARS)
}

fn comment(draft: &Draft, templates: &mut Templates) -> Html {
    let item = draft.item;
    // The ticket has to name the author, whatever the template does.
    let is_nowhere = draft.settings.requester == Requester::Author && draft.plan.requester.author().is_none();
    let author = if is_nowhere { author_lines(templates) } else { Html::default() };
    let room = COMMENT_BYTES.saturating_sub(author.bytes());
    if let Some(comment) = templates.render_comment(draft.settings.comment.as_ref(), room) {
        return comment.then(&author);
    }
    let built_in = templates.render_comment(Some(&COMMENT_TEMPLATE), COMMENT_BYTES);
    built_in.unwrap_or_else(|| Html::quote(item.text.as_deref().unwrap_or_default(), COMMENT_BYTES))
}

/// A paragraph that names the author.
fn author_lines(templates: &mut Templates) -> Html {
    templates.render_comment(Some(&AUTHOR_TEMPLATE), COMMENT_BYTES).unwrap_or_default()
}

/// The notes that a comment has room for: at least one. The others come with the next event.
pub fn fitting(notes: &[Note]) -> &[Note] {
    const TAGS: usize = "<li>, : </li>".len();
    let mut room = NOTES_BYTES;
    let fits = |note: &&Note| {
        let parts = [note_author(note), note.created.as_deref().map(html::line).unwrap_or_default()];
        let head: usize = parts.iter().map(|part| html::escaped(part).len()).sum();
        let bytes = TAGS + head + html::escaped(&html::line_of(&note.text, NOTE_BYTES)).len();
        let fits = bytes <= room;
        room = room.saturating_sub(bytes);
        fits
    };
    let count = notes.iter().take(NOTES).take_while(fits).count().max(1);
    &notes[..count.min(notes.len())]
}

fn note_author(note: &Note) -> String {
    visible_line(note.author.as_deref()).unwrap_or_else(|| "Khoros user".to_owned())
}

/// The notes that a comment shows: a template may have left some out, or may have been cut.
pub(super) fn shown_notes(notes: &[Note], comment: &str, time_zone: &TimeZone) -> Vec<Note> {
    let shown = without_white_space(comment);
    let is_contained = |note: &&Note| {
        let start: String = clean(&note.text).chars().take(NOTE_START).collect();
        // A note such as "ok" would be found anywhere.
        match start.chars().count() < SHORT_NOTE {
            true => heads(note, time_zone)
                .iter()
                .any(|head| shown.contains(&without_white_space(&format!("{head}:{start}")))),
            false => shown.contains(&without_white_space(&start)),
        }
    };
    notes.iter().filter(is_contained).cloned().collect()
}

/// The forms in which author and time precede a note: with the whole time, and with the time of day.
fn heads(note: &Note, time_zone: &TimeZone) -> Vec<String> {
    let author = note_author(note);
    match note.created.as_deref().map(html::line) {
        None => vec![author],
        Some(created) => {
            let times = [time(&created, time_zone, ""), time(&created, time_zone, &created)];
            times.iter().map(|time| format!("{author}, {time}")).collect()
        }
    }
}

/// The text without white space, to compare texts whose lines were broken differently.
fn without_white_space(text: &str) -> String {
    clean(text).chars().filter(|c| !c.is_whitespace()).collect()
}

/// The tags of a ticket. Ours have a prefix: a bare tag can select the value of a custom field. Configured tags,
/// and the tags for a ticket without its fields or its author, are never left out. Without a plan, they are the
/// tags of a later event.
pub fn tags(item: &Item, label: &str, route: &str, settings: &Ticket, plan: Option<Plan>) -> Vec<String> {
    let of = |prefix: &'static str, text: &str| {
        Some(slug(text)).filter(|slug| !slug.is_empty()).map(|slug| format!("khoros_{prefix}{slug}"))
    };
    let network = item.network().and_then(|network| of("", network));
    let event = item.event_name.as_deref().filter(|_| item.kind != Kind::Label);
    let kind = item.content_type.as_deref();
    let named =
        [("route_", Some(route)), ("type_", kind), ("event_", event), ("rule_", item.rule.as_deref())];
    let named = named.into_iter().filter_map(|(prefix, text)| of(prefix, text?));
    let labels = labels(item, label).filter_map(|label| of("label_", label));
    let initiatives = item.initiatives.iter().filter_map(|id| of("initiative_", id));
    let mut tags = vec![TAG.to_owned()];
    for mut tag in network.into_iter().chain(named).chain(labels).chain(initiatives) {
        if tags.len() == TAGS {
            break;
        }
        tag.truncate(TAG_LENGTH);
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    let lacks_fields = plan.is_some_and(|plan| plan.fields == Fields::Plain).then_some(FALLBACK_TAG);
    let lacks_author = plan.is_some_and(|plan| plan.requester == RequesterUser::Pending);
    let lacks = lacks_fields.into_iter().chain(lacks_author.then_some(NO_AUTHOR_TAG)).map(str::to_owned);
    for tag in settings.tags.iter().cloned().chain(lacks) {
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    tags
}

#[cfg(test)]
mod tests;
