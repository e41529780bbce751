//! The token's user and the company's labels. Only `casebridge check` asks for them.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use super::pages;
use super::{Khoros, Refusal};
use crate::json::text;

/// The user of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenUser {
    pub name: String,
    pub email: String,
    pub companies: Vec<Company>,
}

/// A company. It has two kinds of numbers, and Khoros does not document which of them events carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Company {
    pub name: String,
    /// The number in the directory.
    pub directory_id: Option<u64>,
    /// The numbers of its products' environments, without repetition.
    pub environment_ids: Vec<u64>,
}

/// A label that posts can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub name: String,
    /// Whether the label and its set can be applied.
    pub is_active: bool,
}

impl Khoros {
    /// `GET /v2/whoami/`
    ///
    /// # Errors
    /// [`Refusal::NotOffered`] if the answer describes no user.
    pub async fn who_am_i(&self) -> Result<TokenUser, Refusal> {
        let answer = self.answer(self.http.request(Method::GET, self.beside("/v2/whoami/"))).await?;
        answer.as_ref().and_then(TokenUser::read).ok_or(Refusal::NotOffered)
    }

    /// `GET /v2/labelsets/`: the labels of all sets.
    ///
    /// # Errors
    /// [`Refusal::NotOffered`] if the server has no list of them.
    pub async fn labels(&self) -> Result<Vec<Label>, Refusal> {
        let sets = pages::all(self, &self.beside("/v2/labelsets/")).await;
        Ok(sets.map_err(Refusal::of_an_optional_call)?.iter().flat_map(labels_of).collect())
    }

    /// The address of another API on the server of the events API.
    fn beside(&self, path: &str) -> Url {
        let mut url = self.api_url.clone();
        url.set_path(path);
        url
    }
}

impl TokenUser {
    fn read(answer: &Value) -> Option<TokenUser> {
        let json = if answer["data"].is_object() { &answer["data"] } else { answer };
        json.get("companies").or_else(|| json.get("id"))?;
        let field = |name: &str| text(&json[name]).unwrap_or_default();
        let name = format!("{} {}", field("firstName"), field("lastName"));
        let companies = json["companies"].as_array().into_iter().flatten().map(Company::read).collect();
        Some(TokenUser { name: name.trim().to_owned(), email: field("email"), companies })
    }
}

impl Company {
    fn read(json: &Value) -> Company {
        let products = json["products"].as_array().into_iter().flatten();
        let mut environment_ids: Vec<u64> =
            products.filter_map(|product| id(&product["externalCompanyId"])).collect();
        environment_ids.sort_unstable();
        environment_ids.dedup();
        let name = text(&json["name"]).unwrap_or_default();
        Company { name, directory_id: id(&json["id"]), environment_ids }
    }

    /// All numbers, of both kinds.
    pub fn ids(&self) -> impl Iterator<Item = u64> {
        self.directory_id.into_iter().chain(self.environment_ids.iter().copied())
    }
}

/// Reads a number, or a text that holds one.
fn id(value: &Value) -> Option<u64> {
    text(value)?.trim().parse().ok()
}

fn labels_of(set: &Value) -> Vec<Label> {
    // A missing status counts as active.
    let is_active = |json: &Value| text(&json["status"]).is_none_or(|it| it.eq_ignore_ascii_case("active"));
    let read = |label: &Value| {
        let name = text(&label["name"]).filter(|name| !name.is_empty())?;
        Some(Label { name, is_active: is_active(label) && is_active(set) })
    };
    set["labels"].as_array().into_iter().flatten().filter_map(read).collect()
}

/// When a token expires, if it is a JWT that says so. The signature is not verified: that is up to Khoros.
pub fn token_expiry(token: &SecretString) -> Option<Timestamp> {
    expiry(token.expose_secret())
}

/// Reads the claim `exp`, which is in seconds since 1970 (RFC 7519).
fn expiry(token: &str) -> Option<Timestamp> {
    let payload = token.split('.').nth(1)?.trim_end_matches('=');
    let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    Timestamp::from_second(claims["exp"].as_f64()? as i64).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_company_has_two_kinds_of_numbers() {
        let product = |id: Value| json!({"externalCompanyId": id, "name": "Care"});
        let json = json!({
            "firstName": "John", "lastName": "Doe", "email": "john@example.com", "id": 1,
            "companies": [
                {"id": 42, "name": "Acme", "products": [product(json!("45")), product(json!(45))]},
                {"id": "43", "name": null, "products": null},
            ],
        });
        let user = TokenUser::read(&json).unwrap();
        assert_eq!((user.name.as_str(), user.email.as_str()), ("John Doe", "john@example.com"));
        assert_eq!(user.companies[0].ids().collect::<Vec<_>>(), [42, 45]);
        assert_eq!(user.companies[1].ids().collect::<Vec<_>>(), [43]);
        assert_eq!(TokenUser::read(&json!({"data": json, "status": {"succeeded": true}})), Some(user));
        assert_eq!(TokenUser::read(&json!({"message": "Coming Soon"})), None);
    }

    #[test]
    fn a_label_is_as_active_as_its_set() {
        let labels = labels_of(&json!({"status": "ACTIVE", "labels": [
            {"name": "a", "status": "active"}, {"name": "b", "status": "DISABLED"}, {"name": "c"}, {"id": 1}]}));
        let active: Vec<bool> = labels.iter().map(|label| label.is_active).collect();
        assert_eq!(active, [true, false, true]);
        assert!(!labels_of(&json!({"status": "DELETED", "labels": [{"name": "a"}]}))[0].is_active);
        assert_eq!(labels_of(&json!({"labels": "none"})), []);
    }

    #[test]
    fn a_jwt_shows_when_it_ends() {
        let token = |claims: &str| format!("e30.{}.sig", BASE64_URL_SAFE_NO_PAD.encode(claims));
        for (token, second) in [
            (token(r#"{"exp":1800000000}"#), Some(1_800_000_000)),
            (token(r#"{"exp":1800000000,"n":"?>~"}"#), Some(1_800_000_000)),
            (token(r#"{"exp":1800000000} "#).replace(".sig", "=.sig"), Some(1_800_000_000)),
            (token("{}"), None),
            (token("not JSON"), None),
            ("a.b".to_owned(), None),
            ("sandbox-khoros-token".to_owned(), None),
            ("a.%%%.c".to_owned(), None),
        ] {
            assert_eq!(expiry(&token).map(Timestamp::as_second), second, "{token}");
        }
    }
}
