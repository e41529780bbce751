//! The settings of Twilio: the account, and what each route sends to whom.

use std::collections::BTreeMap;

use secrecy::SecretString;
use url::Url;

use super::NAME;
use super::number::{WHATSAPP, address, sender, sid};
use crate::delivery::Cause;
use crate::destination::template::Template;
use crate::destination::texting::{self, Texts};
use crate::env::doc::{Group, Section};
use crate::env::{Reader, parse, variables};
use crate::exchange;
use crate::item::Item;
use crate::route::Route;
use crate::text::last_four;

const PREFIX: &str = "TWILIO_";
const API_URL: &str = "https://api.twilio.com";
const FLEX_API_URL: &str = "https://flex-api.twilio.com";
const CONVERSATIONS_API_URL: &str = "https://conversations.twilio.com";
const PROXY_API_URL: &str = "https://proxy.twilio.com";
const CHAT_API_URL: &str = "https://ip-messaging.twilio.com";
/// Contains nothing that a customer wrote.
const TEXT: &str = "{% if ticket.number %}Ticket {{ ticket.number }}{% else %}Khoros{% endif %}\
                    {% if label %} ({{ label }}){% endif %}: {{ ticket.url or item.link }}";

variables! {
    /// The variables of the Twilio account.
    Account:
    /// The SID of the Twilio account: `AC` and 32 characters.
    twilio_account_sid = needed("for Twilio");
    /// The auth token of the Twilio account.
    twilio_auth_token = needed("for Twilio unless an API key is set");
    /// The SID of an API key (`SK…`), instead of the auth token.
    twilio_api_key_sid = unset();
    /// The secret of that API key.
    twilio_api_key_secret = unset();
    /// `1`: Twilio reports the status of each text to `POST /twilio/status`. This needs `PUBLIC_URL` and the auth
    /// token.
    ///
    /// Otherwise casebridge asks for the status once, a minute after it sent the text.
    twilio_status_callback = default("0");
    /// The address of Twilio's API for messages.
    twilio_api_url = default(API_URL);
    /// The address of the API of Flex.
    twilio_flex_api_url = default(FLEX_API_URL);
    /// The address of the API of conversations.
    twilio_conversations_api_url = default(CONVERSATIONS_API_URL);
    /// The address of the API of Proxy, for `flex-legacy`.
    twilio_proxy_api_url = default(PROXY_API_URL);
    /// The address of the API of Programmable Chat, for `flex-legacy`.
    twilio_chat_api_url = default(CHAT_API_URL);
}

variables! {
    /// The variables of a message: `TWILIO_…`, and `ROUTE_<NAME>_TWILIO_…` for one route.
    MessageVariables:
    /// `sms`: a text message. `flex`: a conversation that an agent opens in Flex. `flex-legacy`: a conversation in Flex
    /// UI 1.x.
    mode = default("sms");
    /// The phone numbers that get the message, separated by commas, each with its country code; `whatsapp:` in front
    /// sends it by WhatsApp. Or a [template](tickets.md#templates) that yields one number.
    ///
    /// An event for which the template yields no number is done without a message.
    to = needed("for Twilio").example("'+15551234567, +4917012345678'");
    /// Your number at Twilio, which sends the message. For WhatsApp it begins with `whatsapp:`.
    from = needed("for Twilio unless `TWILIO_MESSAGING_SERVICE_SID` is set").example("+15557654321");
    /// The messaging service (`MG…`) that sends the text, instead of one number.
    messaging_service_sid = unset();
    /// The message: a [template](tickets.md#templates). casebridge cuts the text at 1,600 characters.
    ///
    /// The default contains the number and the link of the ticket, and nothing that a customer wrote.
    text = default(TEXT);
    /// The approved template (`HX…`) of a WhatsApp message. Its variable `1` is the text.
    content_sid = unset();
    /// The TaskRouter workspace (`WS…`) of Flex.
    flex_workspace_sid = needed("for `flex`");
    /// The workflow (`WW…`) that routes the conversation.
    flex_workflow_sid = needed("for `flex`");
    /// The queue (`WQ…`) for the conversation.
    flex_queue_sid = unset();
    /// The agent (`WK…`) for the conversation.
    flex_worker_sid = unset();
    /// `1`: the task begins at once. `2`: it begins when the customer replies to the first message. For `flex-legacy`.
    flex_strategy = default("1");
    /// The Flex Flow (`FO…`) of `flex-legacy`.
    ///
    /// Without it, casebridge creates one in the workspace and the workflow.
    flex_flow_sid = unset();
    /// The Proxy service (`KS…`).
    proxy_service_sid = needed("for `flex-legacy`");
    /// The Programmable Chat service (`IS…`).
    chat_service_sid = needed("for `flex-legacy`");
}

pub const SECTIONS: &[Section] = &[Section {
    title: "Twilio",
    intro: "See [Twilio](twilio.md).",
    groups: &[Group::new("", Account::DOCS), Group::per_route(PREFIX, MessageVariables::DOCS)],
    prefixes: &[PREFIX],
}];

/// The settings of Twilio.
#[derive(Clone)]
pub struct Settings {
    /// `TWILIO_API_URL`
    pub url: Url,
    /// `TWILIO_FLEX_API_URL`
    pub flex_url: Url,
    /// `TWILIO_CONVERSATIONS_API_URL`
    pub conversations_url: Url,
    /// `TWILIO_PROXY_API_URL`
    pub proxy_url: Url,
    /// `TWILIO_CHAT_API_URL`
    pub chat_url: Url,
    pub account_sid: String,
    /// The account or the API key, with its secret.
    pub user: String,
    pub password: SecretString,
    /// `TWILIO_AUTH_TOKEN`, which signs the requests of Twilio.
    pub auth_token: Option<SecretString>,
    /// Where Twilio reports the status of texts, if it should.
    pub status_callback: Option<Url>,
    /// The messages by route.
    pub messages: BTreeMap<String, Message>,
    /// `TEXT_…`
    pub texts: Texts,
}

/// What a route sends, and to whom.
#[derive(Clone)]
pub struct Message {
    pub mode: Mode,
    pub to: To,
    pub from: From,
    /// `TWILIO_TEXT`
    pub text: Template,
    /// `TWILIO_CONTENT_SID`
    pub content_sid: Option<String>,
}

impl Message {
    /// How many numbers it goes to.
    pub fn numbers(&self) -> usize {
        match &self.to {
            To::Numbers(numbers) => numbers.len(),
            To::Template(_) => 1,
        }
    }
}

/// `TWILIO_MODE`
#[derive(Clone)]
pub enum Mode {
    Sms,
    Flex(Routing),
    FlexLegacy(Legacy),
}

/// The number of a conversation, and where Flex routes it.
#[derive(Clone)]
pub struct Routing {
    /// `TWILIO_FROM`
    pub from: String,
    pub workspace: Option<String>,
    pub workflow: Option<String>,
    pub queue: Option<String>,
    pub worker: Option<String>,
}

/// What Flex UI 1.x needs.
#[derive(Clone)]
pub struct Legacy {
    pub routing: Routing,
    /// The task begins when the customer replies.
    pub on_reply: bool,
    pub flow: Option<String>,
    pub proxy_service: String,
    pub chat_service: String,
}

/// `TWILIO_TO`
#[derive(Clone)]
pub enum To {
    Numbers(Vec<String>),
    Template(Template),
}

/// The sender of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    Number(String),
    Service(String),
}

/// The numbers of each route, for the insertion of deliveries.
#[derive(Clone)]
pub struct Recipients(BTreeMap<String, To>);

impl Settings {
    pub fn recipients(&self) -> Recipients {
        Recipients(self.messages.iter().map(|(route, message)| (route.clone(), message.to.clone())).collect())
    }
}

impl Recipients {
    /// Returns the numbers that get a message about an item; none if a template yields none.
    pub fn of(&self, route: &Route, cause: &Cause, item: impl FnOnce() -> Option<Item>) -> Vec<String> {
        match self.0.get(&route.name) {
            None => Vec::new(),
            Some(To::Numbers(numbers)) => numbers.clone(),
            Some(To::Template(template)) => {
                let number = item().and_then(|item| texting::render(template, &item, route, cause).ok());
                number.and_then(|text| address(&text)).into_iter().collect()
            }
        }
    }
}

/// Whether any of its variables is set.
pub fn is_configured(reader: &mut Reader) -> bool {
    reader.is_any_set(Account::names())
        || reader.is_any_set(MessageVariables::names().map(|name| format!("{PREFIX}{name}")))
}

/// Reads the settings. Returns `None` if there is a problem.
pub fn read(reader: &mut Reader, routes: &[Route]) -> Option<Settings> {
    let account = Account::read(reader, "");
    let account_sid = reader.required(account.twilio_account_sid(), sid("AC"));
    let auth_token = reader.optional(account.twilio_auth_token(), parse::token);
    let credential = credential(reader, &account, account_sid.as_ref(), auth_token.as_ref());
    let url = reader.optional(account.twilio_api_url().or_default(API_URL), parse::url);
    let flex_url = reader.optional(account.twilio_flex_api_url().or_default(FLEX_API_URL), parse::url);
    let conversations = account.twilio_conversations_api_url().or_default(CONVERSATIONS_API_URL);
    let conversations_url = reader.optional(conversations, parse::url);
    let proxy_url = reader.optional(account.twilio_proxy_api_url().or_default(PROXY_API_URL), parse::url);
    let chat_url = reader.optional(account.twilio_chat_api_url().or_default(CHAT_API_URL), parse::url);
    if reader.or(account.twilio_status_callback(), false, parse::switch) && auth_token.is_none() {
        reader.problem("TWILIO_STATUS_CALLBACK needs TWILIO_AUTH_TOKEN, which signs the reports".to_owned());
    }
    let messages = reader.by_route(routes, NAME, read_message);
    let texts = texting::read(reader, routes);
    let (user, password) = credential?;
    Some(Settings {
        url: url?,
        flex_url: flex_url?,
        conversations_url: conversations_url?,
        proxy_url: proxy_url?,
        chat_url: chat_url?,
        account_sid: account_sid?,
        user,
        password,
        auth_token,
        status_callback: None,
        messages: messages?,
        texts,
    })
}

/// Sets where Twilio reports the status of texts, once the public address is known.
pub fn set_status_callback(reader: &mut Reader, settings: &mut Settings, public_url: Option<&Url>) {
    let account = Account::read(reader, "");
    // A wrong value is a problem already.
    if account.twilio_status_callback().value.is_none_or(|text| parse::switch(text) != Ok(true)) {
        return;
    }
    settings.status_callback = public_url.map(|url| exchange::address(url, super::callback::PATH));
    if settings.status_callback.is_none() {
        let warning = "TWILIO_STATUS_CALLBACK needs PUBLIC_URL: until it is set, Twilio reports nothing";
        reader.warnings.push(warning.to_owned());
    }
}

/// Returns user and password: of an API key, if there is one.
fn credential(
    reader: &mut Reader,
    account: &Account,
    account_sid: Option<&String>,
    auth_token: Option<&SecretString>,
) -> Option<(String, SecretString)> {
    let (key, secret) = (account.twilio_api_key_sid(), account.twilio_api_key_secret());
    match reader.pair(key, secret)? {
        Some(_) => {
            let key = reader.optional(account.twilio_api_key_sid(), sid("SK"));
            let secret = reader.optional(account.twilio_api_key_secret(), parse::token);
            Some((key?, secret?))
        }
        None => {
            if account.twilio_auth_token().value.is_none() {
                let problem =
                    "TWILIO_AUTH_TOKEN is not set (or TWILIO_API_KEY_SID and TWILIO_API_KEY_SECRET)";
                reader.problem(problem.to_owned());
            }
            Some((account_sid?.clone(), auth_token?.clone()))
        }
    }
}

fn read_message(reader: &mut Reader, route: &Route) -> Option<Message> {
    let variables = &MessageVariables::read_for(reader, route, PREFIX);
    let to = reader.required(variables.to(), recipients);
    let from = read_from(reader, variables);
    let template = variables.text();
    let template = Template::new(&template.name, template.value.unwrap_or(TEXT))
        .map_err(|problem| reader.problem(format!("{}: {problem}", template.name)));
    let content_sid = reader.optional(variables.content_sid(), sid("HX"));
    let mode = read_mode(reader, variables, from.as_ref());
    let (to, from, mode) = (to?, from?, mode?);
    check_sender(reader, variables, &to, &from);
    Some(Message { mode, to, from, text: template.ok()?, content_sid })
}

/// Adds the problems of settings that contradict each other.
fn check_sender(reader: &mut Reader, variables: &MessageVariables, to: &To, from: &From) {
    let is_whatsapp = |number: &String| number.starts_with(WHATSAPP);
    if let (To::Numbers(numbers), From::Number(from)) = (to, from)
        && numbers.iter().any(|number| is_whatsapp(number) != is_whatsapp(from))
    {
        let (from, to) = (variables.from().name, variables.to().name);
        reader.problem(format!("{from} and {to} do not match: begin both with `whatsapp:`, or neither"));
    }
}

fn read_from(reader: &mut Reader, variables: &MessageVariables) -> Option<From> {
    let variables = variables.own_if(|own| own.from.is_some() || own.messaging_service_sid.is_some());
    let (from, service) = (variables.from(), variables.messaging_service_sid());
    match (&variables.from, &variables.messaging_service_sid) {
        (Some(_), Some(_)) => {
            let (from, service) = (from.name, service.name);
            reader.problem(format!("{from} and {service} are both set: set only one of them"));
            None
        }
        (Some(_), None) => reader.optional(from, sender).map(From::Number),
        (None, Some(_)) => reader.optional(service, sid("MG")).map(From::Service),
        (None, None) => {
            reader.problem("TWILIO_FROM is not set (or TWILIO_MESSAGING_SERVICE_SID)".to_owned());
            None
        }
    }
}

fn read_mode(reader: &mut Reader, variables: &MessageVariables, from: Option<&From>) -> Option<Mode> {
    let setting = variables.mode();
    let mode = setting.value.unwrap_or("sms").to_ascii_lowercase();
    let workspace = reader.optional(variables.flex_workspace_sid(), sid("WS"));
    let workflow = reader.optional(variables.flex_workflow_sid(), sid("WW"));
    let queue = reader.optional(variables.flex_queue_sid(), sid("WQ"));
    let worker = reader.optional(variables.flex_worker_sid(), sid("WK"));
    let routing = |reader: &mut Reader| match from? {
        From::Number(from) => Some(Routing { from: from.clone(), workspace, workflow, queue, worker }),
        From::Service(_) => {
            let service = variables.messaging_service_sid().name;
            reader.problem(format!("{service} is set, but a conversation needs a number (TWILIO_FROM)"));
            None
        }
    };
    let is_routed = |reader: &mut Reader, mode: &str| {
        let missing = [variables.flex_workspace_sid(), variables.flex_workflow_sid()];
        let missing = missing.into_iter().filter(|setting| setting.value.is_none());
        let problems = missing.map(|setting| format!("{} is not set, and {mode} needs it", setting.name));
        problems.for_each(|problem| reader.problem(problem));
    };
    match mode.as_str() {
        "sms" => Some(Mode::Sms),
        "flex" => {
            is_routed(reader, "flex");
            routing(reader).map(Mode::Flex)
        }
        "flex-legacy" => {
            let flow = reader.optional(variables.flex_flow_sid(), sid("FO"));
            if variables.flex_flow_sid().value.is_none() {
                is_routed(reader, "flex-legacy without TWILIO_FLEX_FLOW_SID");
            }
            let proxy = reader.required(variables.proxy_service_sid(), sid("KS"));
            let chat = reader.required(variables.chat_service_sid(), sid("IS"));
            let strategy = reader.or(variables.flex_strategy(), 1, parse::number(1..=2));
            let warning = format!(
                "{} is flex-legacy: Twilio has replaced it with Flex Conversations. Change to flex as soon as you can",
                setting.name
            );
            reader.warnings.push(warning);
            let (routing, proxy_service, chat_service) = (routing(reader), proxy?, chat?);
            Some(Mode::FlexLegacy(Legacy {
                routing: routing?,
                on_reply: strategy == 2,
                flow,
                proxy_service,
                chat_service,
            }))
        }
        _ => {
            reader.problem(format!("{} is not one of sms, flex and flex-legacy", setting.name));
            None
        }
    }
}

/// Parses a template, or numbers that are separated by commas.
fn recipients(text: &str) -> Result<To, String> {
    if text.contains("{{") || text.contains("{%") {
        return Template::new("it", text)
            .map(To::Template)
            .map_err(|problem| format!("is not a valid template: {problem}"));
    }
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let mut numbers = parts.map(|part| address(part).ok_or(part)).collect::<Result<Vec<_>, _>>();
    if let Ok(numbers) = &mut numbers {
        numbers.sort();
        numbers.dedup();
    }
    let example = "as in +15551234567 or whatsapp:+4917012345678";
    match numbers {
        Ok(numbers) if !numbers.is_empty() => Ok(To::Numbers(numbers)),
        Ok(_) => Err(format!("is not a list of phone numbers, {example}")),
        Err(wrong) => {
            let digits: String = wrong.chars().filter(char::is_ascii_digit).collect();
            let wrong = if digits.len() < 7 { "a part".to_owned() } else { last_four(&digits) };
            Err(format!("is not a list of phone numbers: {wrong} is not one, {example}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_and_recipients_are_read_as_people_write_them() {
        for (text, expected) in [
            ("+1 (555) 765-4321", Some("+15557654321")),
            ("WhatsApp: +15557654321", Some("whatsapp:+15557654321")),
            ("72345", Some("72345")),
            ("Acme Inc", Some("Acme Inc")),
            ("555-0147", None),
            ("5550147", None),
            ("Acme Incorporated", None),
            ("whatsapp:", None),
        ] {
            assert_eq!(sender(text).ok().as_deref(), expected, "{text}");
        }
        let numbers = |text| match recipients(text) {
            Ok(To::Numbers(numbers)) => numbers,
            _ => Vec::new(),
        };
        assert_eq!(numbers("+15551230147, +1 555 123 0147,"), ["+15551230147"]);
        assert_eq!(numbers("+15551230147, 5551230148"), Vec::<String>::new());
        assert!(matches!(recipients("{{ item.text }}"), Ok(To::Template(_))));
        assert!(recipients("{{ item.phone }}").is_err());
    }
}
