//! The feed of a subscription, from which its events can be read. Khoros publishes neither the shape of its
//! pages nor its order.

use reqwest::Method;
use serde_json::Value;

use super::pages::entries_of;
use super::{Khoros, Refusal};

impl Khoros {
    /// Reads up to `limit` events of a subscription from `offset` on, in the form in which they are pushed.
    /// Past the end there are none, or old ones again.
    ///
    /// # Errors
    /// [`Refusal::NotOffered`] if there is no feed; [`Refusal::TooLarge`] asks for a smaller limit.
    pub async fn feed(&self, uuid: &str, offset: u64, limit: u64) -> Result<Vec<Value>, Refusal> {
        let request = self.request(Method::GET, &["data", uuid]);
        let request = request.query(&[("offset", offset), ("limit", limit)]);
        let answer = self.answer(request).await.map_err(Refusal::of_an_optional_call)?;
        answer.and_then(read).ok_or(Refusal::NotOffered)
    }
}

/// Reads an array of envelopes, such an array under `data`, or a single envelope, which also has `data`.
fn read(answer: Value) -> Option<Vec<Value>> {
    let has = |value: &Value, fields: &[&str]| fields.iter().any(|field| value.get(field).is_some());
    if has(&answer, &["eventName", "eventUuid"]) {
        return Some(vec![answer]);
    }
    let entries = entries_of(answer)?;
    // A list of other things is not a feed.
    let is_feed = |entry| has(entry, &["eventName", "eventUuid", "data"]);
    (entries.is_empty() || entries.iter().any(is_feed)).then_some(entries)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pages_of_every_shape_are_read() {
        let event = json!({"eventName": "rule-applied", "data": {"items": []}});
        assert_eq!(read(json!([event, event])), Some(vec![event.clone(), event.clone()]));
        let under_data = json!({"data": [event], "status": {"succeeded": true}});
        assert_eq!(read(under_data), Some(vec![event.clone()]));
        assert_eq!(read(event.clone()), Some(vec![event.clone()]));
        assert_eq!(read(json!({"eventUuid": "1", "data": []})).map(|page| page.len()), Some(1));
        assert_eq!(read(json!([])), Some(Vec::new()));
        assert_eq!(read(json!([event, "text"])).map(|page| page.len()), Some(2));
        assert_eq!(read(json!([{"uuid": "1", "externalId": "a"}])), None);
        for nothing in [json!({}), json!({"data": {}}), json!("Coming Soon"), json!(null), json!(7)] {
            assert_eq!(read(nothing.clone()), None, "{nothing}");
        }
    }
}
