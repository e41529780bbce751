//! Messages: their limits, and how Slack reads their markup.

use regex::Regex;
use serde_json::{Value, json};

use super::BOT_ID;

/// The arguments of `chat.postMessage`.
pub(super) const POST: &[&str] = &[
    "channel",
    "text",
    "blocks",
    "metadata",
    "thread_ts",
    "mrkdwn",
    "unfurl_links",
    "unfurl_media",
    "client_msg_id",
];
/// The arguments of `chat.update`.
pub(super) const UPDATE: &[&str] =
    &["channel", "ts", "text", "blocks", "metadata", "mrkdwn", "unfurl_links", "unfurl_media"];
/// The longest text of one message. Slack posts the rest as further messages.
const LONGEST: usize = 4040;

/// A message in a channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Its time stamp, which identifies it.
    pub ts: String,
    /// The time stamp of the message that it replies to.
    pub thread_ts: Option<String>,
    /// The text as it was sent.
    pub text: String,
    /// The blocks as they were sent.
    pub blocks: Vec<Value>,
    /// The metadata as it was sent.
    pub metadata: Option<Value>,
    /// The mentions that it notified when it was posted, as in `<!here>`.
    pub notified: Vec<String>,
    /// Whether its links show their content.
    pub unfurls: bool,
    /// How often it was edited.
    pub edits: usize,
}

type Checked = Result<(), &'static str>;

impl Message {
    pub(super) fn new(ts: &str, arguments: &Value, drops_metadata: bool) -> Message {
        let text = arguments["text"].as_str().unwrap_or_default().to_owned();
        let blocks = arguments["blocks"].as_array().cloned().unwrap_or_default();
        let mut notified = mentions(&text);
        blocks.iter().for_each(|block| elements(block, &mut notified));
        notified.sort();
        notified.dedup();
        Message {
            ts: ts.to_owned(),
            thread_ts: arguments["thread_ts"].as_str().map(str::to_owned),
            metadata: Some(arguments["metadata"].clone()).filter(|it| !it.is_null() && !drops_metadata),
            unfurls: arguments["unfurl_links"] != false || arguments["unfurl_media"] != false,
            text,
            blocks,
            notified,
            edits: 0,
        }
    }

    /// An edit notifies nobody.
    pub(super) fn edit(&mut self, arguments: &Value, drops_metadata: bool) -> Checked {
        let new = Message::new(&self.ts, arguments, drops_metadata);
        if new.text.encode_utf16().count() > 4000 {
            return Err("msg_too_long");
        }
        let is_rich = |blocks: &[Value]| blocks.iter().any(|block| block["type"] == "rich_text");
        if is_rich(&self.blocks) && !new.blocks.is_empty() && !is_rich(&new.blocks) {
            return Err("block_mismatch");
        }
        let id = |block: &Value| block["block_id"].as_str().map(str::to_owned);
        let known: Vec<_> = self.blocks.iter().filter_map(id).collect();
        if new.blocks.iter().filter_map(id).any(|id| known.contains(&id)) {
            return Err("invalid_blocks");
        }
        (self.text, self.blocks, self.edits) = (new.text, new.blocks, self.edits + 1);
        self.metadata = new.metadata.or(self.metadata.take());
        Ok(())
    }

    pub(super) fn json(&self, with_metadata: bool) -> Value {
        let mut message = json!({
            "type": "message", "ts": self.ts, "text": self.text, "bot_id": BOT_ID, "blocks": self.blocks,
        });
        if let Some(thread) = &self.thread_ts {
            message["thread_ts"] = json!(thread);
        }
        if let Some(metadata) = &self.metadata {
            message["metadata"] = match with_metadata {
                true => metadata.clone(),
                false => json!({ "event_type": metadata["event_type"] }),
            };
        }
        message
    }

    /// The text of its blocks as people read it, line by line.
    pub fn shown(&self) -> String {
        let mut texts = Vec::new();
        self.blocks.iter().for_each(|block| shown(block, &mut texts));
        texts.join("")
    }
}

/// Texts beyond the limit become further messages, without the blocks.
pub(super) fn split(arguments: &Value) -> Vec<Value> {
    let text: Vec<u16> = arguments["text"].as_str().unwrap_or_default().encode_utf16().collect();
    let mut parts = vec![arguments.clone()];
    for (number, part) in text.chunks(LONGEST).enumerate() {
        let part = json!(String::from_utf16_lossy(part));
        match number {
            0 => parts[0]["text"] = part,
            _ => parts.push(json!({ "text": part, "thread_ts": arguments["thread_ts"] })),
        }
    }
    parts
}

/// Checks the arguments of a message.
pub(super) fn check(arguments: &Value, known: &[&str]) -> Checked {
    let fields = arguments.as_object().ok_or("invalid_arguments")?;
    if !fields.keys().all(|name| known.contains(&name.as_str())) {
        return Err("invalid_arg_name");
    }
    if arguments["text"].as_str().unwrap_or_default().trim().is_empty() {
        return Err("no_text");
    }
    let metadata = &arguments["metadata"];
    let is_valid = metadata["event_type"].is_string() && metadata["event_payload"].is_object();
    if !metadata.is_null() && !is_valid {
        return Err("invalid_metadata_format");
    }
    match &arguments["blocks"] {
        Value::Null => Ok(()),
        Value::Array(blocks) if (1..=50).contains(&blocks.len()) => {
            let length: usize = blocks.iter().map(length).sum();
            if length > 13_200 { Err("msg_blocks_too_long") } else { blocks.iter().try_for_each(check_block) }
        }
        _ => Err("invalid_blocks"),
    }
}

fn check_block(block: &Value) -> Checked {
    let is_valid = match block["type"].as_str() {
        Some("rich_text") => block["elements"].as_array().is_some_and(|parts| parts.iter().all(is_rich_part)),
        Some("context") => block["elements"].as_array().is_some_and(|texts| {
            (1..=10).contains(&texts.len()) && texts.iter().all(|text| is_text(text) && length(text) <= 3000)
        }),
        Some("section") => is_text(&block["text"]) && length(&block["text"]) <= 3000,
        _ => false,
    };
    let has_id =
        block.get("block_id").is_none_or(|id| id.as_str().is_some_and(|id| (1..=255).contains(&id.len())));
    if is_valid && has_id { Ok(()) } else { Err("invalid_blocks") }
}

fn is_rich_part(part: &Value) -> bool {
    let is_known = matches!(part["type"].as_str(), Some("rich_text_section" | "rich_text_quote"));
    let elements = part["elements"].as_array();
    is_known && elements.is_some_and(|elements| !elements.is_empty() && elements.iter().all(is_rich_element))
}

fn is_rich_element(element: &Value) -> bool {
    let is_set = |name: &str| element[name].as_str().is_some_and(|text| !text.is_empty());
    match element["type"].as_str() {
        Some("text") => is_set("text") && length(element) <= 3000,
        Some("link") => is_set("url") && element["url"].as_str().is_some_and(|url| url.len() <= 3000),
        Some("user") => is_set("user_id"),
        Some("usergroup") => is_set("usergroup_id"),
        Some("broadcast") => matches!(element["range"].as_str(), Some("here" | "channel" | "everyone")),
        _ => false,
    }
}

fn is_text(text: &Value) -> bool {
    matches!(text["type"].as_str(), Some("plain_text" | "mrkdwn"))
        && text["text"].as_str().is_some_and(|text| !text.is_empty())
}

/// The characters of all texts in a block.
fn length(value: &Value) -> usize {
    match value {
        Value::Array(values) => values.iter().map(length).sum(),
        Value::Object(fields) => {
            let text =
                fields.get("text").and_then(Value::as_str).map_or(0, |text| text.encode_utf16().count());
            text + fields
                .iter()
                .filter(|(name, _)| *name != "text" || fields["text"].is_object())
                .map(|(_, it)| length(it))
                .sum::<usize>()
        }
        _ => 0,
    }
}

/// The mentions that Slack finds in a text that it parses.
fn mentions(text: &str) -> Vec<String> {
    let mention = Regex::new(r"<(?:![^>]+|@[^>]+)>");
    mention
        .map(|mention| mention.find_iter(text).map(|it| it.as_str().to_owned()).collect())
        .unwrap_or_default()
}

/// Adds the mentions in a block: those of rich text, and those in texts of the type `mrkdwn`.
fn elements(value: &Value, found: &mut Vec<String>) {
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    match value["type"].as_str() {
        Some("mrkdwn") => found.extend(mentions(text("text"))),
        Some("user") => found.push(format!("<@{}>", text("user_id"))),
        Some("usergroup") => found.push(format!("<!subteam^{}>", text("usergroup_id"))),
        Some("broadcast") => found.push(format!("<!{}>", text("range"))),
        _ => {
            value["elements"].as_array().into_iter().flatten().for_each(|it| elements(it, found));
            elements_of_text(&value["text"], found);
        }
    }
}

fn elements_of_text(text: &Value, found: &mut Vec<String>) {
    if text.is_object() {
        elements(text, found);
    }
}

fn shown(value: &Value, texts: &mut Vec<String>) {
    texts.extend(value["text"].as_str().map(str::to_owned));
    value["elements"].as_array().into_iter().flatten().for_each(|it| shown(it, texts));
    if matches!(value["type"].as_str(), Some("rich_text_section" | "rich_text_quote" | "context")) {
        texts.push("\n".to_owned());
    }
}
