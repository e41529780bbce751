//! Requests to Slack's Web API.

use jiff::Timestamp;
use reqwest::header::CONTENT_TYPE;
use secrecy::ExposeSecret;
use serde_json::Value;
use url::Url;

use super::Slack;
use super::answer::{self, Failure, Kind};
use super::message::Mark;
use crate::exchange;
use crate::ledger::Ledger;

/// Messages on a page of a lookup, of which Slack recommends 200 at most; and the pages that one lookup reads.
const PAGE: &str = "100";
const PAGES: usize = 20;
/// The largest page that is read, in bytes.
const PAGE_BYTES: usize = 8 << 20;

/// The result of a lookup.
pub enum Found {
    /// The message's time stamp and mark.
    Message(String, Mark),
    Nothing,
    /// casebridge may not read the channel, or the channel has too many messages since.
    Unreadable,
}

impl Slack {
    /// Posts a message, and returns its time stamp.
    pub(super) async fn post(
        &self,
        channel: &str,
        body: &str,
        ledger: &Ledger<'_>,
    ) -> Result<String, Failure> {
        let answer = self.write("chat.postMessage", body, Some(ledger)).await?;
        match (answer["channel"].as_str(), answer["ts"].as_str()) {
            (Some(posted), Some(ts)) if posted == channel && !ts.is_empty() => Ok(ts.to_owned()),
            _ => Err(Failure {
                kind: Kind::Doubt,
                word: "ok without a time stamp".to_owned(),
                retry_after: None,
            }),
        }
    }

    /// Calls a method that takes JSON. The ledger of a delivery gets the answer.
    pub(super) async fn write(
        &self,
        method: &str,
        body: &str,
        ledger: Option<&Ledger<'_>>,
    ) -> Result<Value, Failure> {
        let request =
            self.http.post(self.url(method)).header(CONTENT_TYPE, "application/json; charset=utf-8");
        self.send(request.body(body.to_owned()), ledger).await
    }

    pub(super) async fn read(&self, method: &str, query: &[(&str, &str)]) -> Result<Value, Failure> {
        self.send(self.http.get(self.url(method)).query(query), None).await
    }

    /// Returns the id of our bot, which also shows that the token works.
    pub(super) async fn bot(&self) -> Result<String, Failure> {
        let account = self.write("auth.test", "{}", None).await?;
        let bot = account["bot_id"].as_str().ok_or_else(|| Failure {
            kind: Kind::Credential,
            word: "no bot_id: the token is not a bot's".to_owned(),
            retry_after: None,
        })?;
        Ok(self.bot.get_or_init(|| bot.to_owned()).clone())
    }

    /// Looks for one of our messages in a channel since a time, or in the thread of `root`.
    pub(super) async fn search(
        &self,
        channel: &str,
        root: Option<&str>,
        since: Timestamp,
        is_it: impl Fn(&Mark) -> bool,
    ) -> Result<Found, Failure> {
        let bot = match self.bot.get() {
            Some(bot) => bot.clone(),
            None => self.bot().await?,
        };
        let method = if root.is_some() { "conversations.replies" } else { "conversations.history" };
        let (oldest, mut cursor) = (since.as_second().to_string(), String::new());
        for _ in 0..PAGES {
            let mut query = vec![("channel", channel), ("oldest", &oldest), ("limit", PAGE)];
            query.push(("include_all_metadata", "true"));
            query.extend(root.map(|root| ("ts", root)));
            query.extend(Some(("cursor", cursor.as_str())).filter(|_| !cursor.is_empty()));
            let page = match self.read(method, &query).await {
                Err(Failure { kind: Kind::Thread, .. }) => return Ok(Found::Nothing),
                Err(failure) if failure.kind == Kind::Permission || failure.word == "not_in_channel" => {
                    return Ok(Found::Unreadable);
                }
                page => page?,
            };
            let messages = page["messages"].as_array().map_or(&[][..], Vec::as_slice);
            let ours = messages.iter().filter(|message| message["bot_id"] == *bot);
            let mut marked = ours.filter_map(|message| Some((message["ts"].as_str()?, Mark::of(message)?)));
            if let Some((ts, mark)) = marked.find(|(_, mark)| is_it(mark)) {
                return Ok(Found::Message(ts.to_owned(), mark));
            }
            cursor = page["response_metadata"]["next_cursor"].as_str().unwrap_or_default().to_owned();
            if cursor.is_empty() {
                return Ok(Found::Nothing);
            }
        }
        Ok(Found::Unreadable)
    }

    fn url(&self, method: &str) -> Url {
        exchange::address(&self.settings.url, &format!("/{method}"))
    }

    async fn send(
        &self,
        request: reqwest::RequestBuilder,
        ledger: Option<&Ledger<'_>>,
    ) -> Result<Value, Failure> {
        let request = request.bearer_auth(self.settings.token.expose_secret()).timeout(self.timeout);
        let answer = exchange::send_and_read(request, PAGE_BYTES).await;
        if let (Some(ledger), Ok(answer)) = (ledger, &answer) {
            ledger.answered(answer.response());
        }
        answer::success(answer)
    }
}
