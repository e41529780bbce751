//! Requests to Twilio's APIs: forms in, JSON out.

use reqwest::RequestBuilder;
use reqwest::header::CONTENT_TYPE;
use secrecy::ExposeSecret;
use serde_json::Value;
use url::Url;
use url::form_urlencoded::Serializer;

use super::Twilio;
use super::outcome::{Failure, failed_lookup, failure, may_have_been_sent, unfinished_lookup};
use crate::delivery::Outcome;
use crate::exchange::{self, Answer, NoAnswer};
use crate::ledger::Ledger;

/// The largest list of messages, in bytes.
const LIST_BYTES: usize = 1 << 20;
/// The number of pages of a list that are read.
const PAGES: usize = 20;

/// Writes a form. Fields without a value are left out.
pub fn form<'a>(fields: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let mut form = Serializer::new(String::new());
    for (name, value) in fields {
        if let Some(value) = value {
            form.append_pair(name, value);
        }
    }
    form.finish()
}

impl Twilio {
    /// The address of a path below the account.
    pub(super) fn account_address(&self, path: &str) -> Url {
        let account = &self.settings.account_sid;
        exchange::address(&self.settings.url, &format!("/2010-04-01/Accounts/{account}{path}.json"))
    }

    /// Sends a form. Returns the answer if it is 2xx and JSON with a `sid`.
    pub(super) async fn post(&self, url: Url, form: String, ledger: &Ledger<'_>) -> Result<Value, Failure> {
        let request =
            self.http.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        let answer = exchange::send(self.authorized(request)).await;
        let answer = answer.inspect(|answer| ledger.answered(answer.response()));
        match body_of(&answer) {
            Some(body) if body["sid"].is_string() => Ok(body),
            Some(_) => Err(Failure::Outcome(may_have_been_sent("Twilio's answer is not the documented one"))),
            None => Err(failure(answer)),
        }
    }

    /// Looks a resource up; `None` if there is none.
    pub(super) async fn get(&self, url: Url) -> Result<Option<Value>, Outcome> {
        self.get_or(url, failed_lookup).await
    }

    /// The same; `failed` makes the outcome if the resource cannot be read.
    pub(super) async fn get_or(
        &self,
        url: Url,
        failed: impl FnOnce(Result<Answer, NoAnswer>) -> Outcome,
    ) -> Result<Option<Value>, Outcome> {
        let answer = self.read(url).await;
        match body_of(&answer) {
            Some(body) => Ok(Some(body)),
            None if matches!(answer, Ok(Answer { status: 404, .. })) => Ok(None),
            None => Err(failed(answer)),
        }
    }

    /// Finds a member of a list.
    pub(super) async fn find(
        &self,
        url: Url,
        name: &str,
        is_it: impl Fn(&Value) -> bool,
    ) -> Result<Option<Value>, Outcome> {
        Ok(self.list(url, name, &is_it).await?.into_iter().find(is_it))
    }

    /// Reads the members of a list, page by page, until `is_over`. A list that is not read to its end is an error.
    pub(super) async fn list(
        &self,
        mut url: Url,
        name: &str,
        is_over: impl Fn(&Value) -> bool,
    ) -> Result<Vec<Value>, Outcome> {
        let mut members = Vec::new();
        for _ in 0..PAGES {
            let answer = self.read(url.clone()).await;
            let Some(mut page) = body_of(&answer) else { return Err(failed_lookup(answer)) };
            let Value::Array(found) = page[name].take() else { return Err(failed_lookup(answer)) };
            let is_last = found.last().is_none_or(&is_over);
            members.extend(found);
            let Some(next) = next_page(&page, &self.settings.url).filter(|_| !is_last) else {
                return Ok(members);
            };
            // The credential goes to no other host.
            match next.filter(|next| next.origin() == url.origin()) {
                Some(next) => url = next,
                None => break,
            }
        }
        match members.iter().any(is_over) {
            true => Ok(members),
            false => Err(unfinished_lookup("the list was not read to its end")),
        }
    }

    /// Deletes a resource. True: it is gone.
    pub(super) async fn delete(&self, url: Url) -> bool {
        let answer = exchange::send(self.authorized(self.http.delete(url))).await;
        matches!(answer, Ok(Answer { status: 200..=299 | 404, .. }))
    }

    async fn read(&self, url: Url) -> Result<Answer, NoAnswer> {
        exchange::send_and_read(self.authorized(self.http.get(url)), LIST_BYTES).await
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        let password = self.settings.password.expose_secret();
        request.timeout(self.timeout).basic_auth(&self.settings.user, Some(password))
    }
}

/// The address of the next page of a list, if there is one; the inner `None` is a wrong address. That of messages is a
/// path below `api`, which may have a path itself.
fn next_page(page: &Value, api: &Url) -> Option<Option<Url>> {
    match page["next_page_uri"].as_str() {
        Some(path) => Some(Url::parse(&format!("{}{path}", api.as_str().trim_end_matches('/'))).ok()),
        None => page["meta"]["next_page_url"].as_str().map(|url| Url::parse(url).ok()),
    }
}

/// The body of a 2xx, if it is a JSON object.
fn body_of(answer: &Result<Answer, NoAnswer>) -> Option<Value> {
    let answer = answer.as_ref().ok().filter(|answer| answer.is_success())?;
    serde_json::from_slice(&answer.body).ok().filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_next_page_is_below_the_address_of_the_api() {
        let path = "/2010-04-01/Accounts/AC1/Messages.json?Page=1";
        for (api, page, expected) in [
            ("https://a.example/", json!({"next_page_uri": path}), format!("https://a.example{path}")),
            (
                "https://a.example/twilio",
                json!({"next_page_uri": path}),
                format!("https://a.example/twilio{path}"),
            ),
            (
                "https://a.example",
                json!({"meta": {"next_page_url": "https://b.example/x"}}),
                "https://b.example/x".to_owned(),
            ),
        ] {
            let next = next_page(&page, &Url::parse(api).unwrap());
            assert_eq!(next.flatten().map(String::from), Some(expected), "{page}");
        }
        let api = Url::parse("https://a.example").unwrap();
        assert_eq!(next_page(&json!({"next_page_uri": null, "meta": {"next_page_url": null}}), &api), None);
        assert_eq!(next_page(&json!({"meta": {"next_page_url": "?"}}), &api), Some(None));
    }
}
