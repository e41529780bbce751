//! Redacts secrets before an event is stored: `error-custom-crm` events repeat a call to a CRM, including its
//! credential.

use serde_json::Value;

const REDACTED: &str = "[redacted]";

/// Whether text that cannot be parsed may contain a credential.
pub(super) fn may_hold_secrets(text: &str) -> bool {
    let text = plain(text);
    ["requestheaders", "authorization", "bearer", "password", "secret", "token"]
        .iter()
        .any(|word| text.contains(word))
}

/// Replaces headers, tokens and possible secrets in the URL of a call, at any depth.
pub(super) fn redact(value: &mut Value) {
    match value {
        Value::Object(map) => map.iter_mut().for_each(|(name, value)| redact_field(name, value)),
        Value::Array(values) => values.iter_mut().for_each(redact),
        _ => {}
    }
}

fn redact_field(name: &str, value: &mut Value) {
    match plain(name).as_str() {
        "requestheaders" | "responseheaders" | "headers" | "requestbody" => *value = Value::from(REDACTED),
        "requestqueryparameters" => redact_parameters(value),
        "requesturi" => redact_address(value),
        name if is_credential(name) && !value.is_null() => *value = Value::from(REDACTED),
        _ => redact(value),
    }
}

/// Normalizes a name, so that `request_headers` and `requestHeaders` are equal.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// Whether a field with this normalized name contains a credential.
fn is_credential(name: &str) -> bool {
    const NAMES: &[&str] =
        &["authorization", "cookie", "password", "passwd", "secret", "bearertoken", "accesstoken"];
    name == "authheadervalue" || name == "apikey" || NAMES.iter().any(|known| name.ends_with(known))
}

/// Redacts parameters whose names suggest a secret; parameters without names are all redacted.
fn redact_parameters(parameters: &mut Value) {
    const SECRETS: &[&str] =
        &["token", "secret", "pass", "pwd", "key", "auth", "sig", "session", "cred", "jwt", "code"];
    match parameters {
        Value::Object(map) => {
            for (name, value) in map {
                let lower = plain(name);
                match SECRETS.iter().any(|secret| lower.contains(secret)) {
                    true => *value = Value::from(REDACTED),
                    false => redact_field(name, value),
                }
            }
        }
        Value::Null => {}
        other => *other = Value::from(REDACTED),
    }
}

/// Redacts user, password and everything after the path; the event has the parameters in another field.
fn redact_address(address: &mut Value) {
    let Value::String(uri) = address else { return redact(address) };
    let end = uri.find(['?', '#', ';']);
    let (path, rest) = uri.split_at(end.unwrap_or(uri.len()));
    // A password may hold anything, so the last `@` counts.
    let path = match (path.find("//"), path.rfind('@')) {
        (Some(host), Some(at)) if host < at => format!("{}//{REDACTED}{}", &path[..host], &path[at..]),
        _ => path.to_owned(),
    };
    let rest = rest.chars().next().map(|mark| format!("{mark}{REDACTED}")).unwrap_or_default();
    *uri = path + &rest;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_call_keeps_what_is_no_secret() {
        let mut event = json!({"data": {"externalCall": {
            "requestMethod": "GET",
            "requestUri": "https://user:s3cret@crm.example/search?q=jane&api_key=s3cret#s3cret",
            "requestHeaders": {"Authorization": ["Bearer s3cret"]},
            "ResponseHeaders": {"Set-Cookie": ["s3cret"]},
            "requestQueryParameters": {"q": ["jane"], "Api_Key": ["s3cret"], "access-token": "s3cret", "page": 1},
            "responseCode": 500,
        }}});
        let redacted = json!({"data": {"externalCall": {
            "requestMethod": "GET",
            "requestUri": "https://[redacted]@crm.example/search?[redacted]",
            "requestHeaders": "[redacted]",
            "ResponseHeaders": "[redacted]",
            "requestQueryParameters":
                {"q": ["jane"], "Api_Key": "[redacted]", "access-token": "[redacted]", "page": 1},
            "responseCode": 500,
        }}});
        redact(&mut event);
        assert_eq!(event, redacted);
        redact(&mut event);
        assert_eq!(event, redacted, "once is enough");
    }

    #[test]
    fn a_call_of_another_shape_keeps_no_secret_either() {
        for call in [
            json!({"requestUri": "/search?token=s3cret"}),
            json!({"requestUri": "https://app.example/cb#access_token=s3cret"}),
            json!({"requestUri": "https://u:s3cret/w@host/x"}),
            json!({"requestUri": "//u:s3cret@host"}),
            json!({"requestUri": "https://app.example/x;jsessionid=s3cret"}),
            json!({"requestBody": "client_secret=s3cret"}),
            json!({"request_headers": "s3cret", "headers": ["s3cret"], "Authorization": "s3cret"}),
            json!({"newPassword": "s3cret", "access-token": "s3cret", "Set-Cookie": "s3cret"}),
            json!({"requestUri": ["a", {"bearerToken": "s3cret"}]}),
            json!({"requestQueryParameters": "token=s3cret"}),
            json!({"requestQueryParameters": ["s3cret"]}),
            json!({"requestQueryParameters": {"q": {"authHeaderValue": "s3cret"}}}),
            json!({"requestQueryParameters": {"requestHeaders": "s3cret"}}),
        ] {
            let mut event = json!([call]);
            redact(&mut event);
            assert!(!event.to_string().contains("s3cret"), "{event}");
        }
    }
}
