//! Takes secrets out of what is stored: `error-custom-crm` events repeat a call to a CRM, and with it
//! the credential that it was made with.

use serde_json::Value;

const REDACTED: &str = "[redacted]";

/// Replaces headers, tokens, and what in the address of a call looks like a secret, wherever they stand.
pub(super) fn redact(value: &mut Value) {
    match value {
        Value::Object(map) => map.iter_mut().for_each(|(name, value)| redact_field(name, value)),
        Value::Array(values) => values.iter_mut().for_each(redact),
        _ => {}
    }
}

fn redact_field(name: &str, value: &mut Value) {
    match name.to_ascii_lowercase().as_str() {
        "requestheaders" | "responseheaders" | "authheadervalue" | "bearertoken" => {
            *value = Value::from(REDACTED);
        }
        "requestqueryparameters" => redact_parameters(value),
        "requesturi" => redact_address(value),
        _ => redact(value),
    }
}

/// By their names; what has none could be anything.
fn redact_parameters(parameters: &mut Value) {
    const SECRETS: &[&str] =
        &["token", "secret", "pass", "pwd", "key", "auth", "sig", "session", "cred", "jwt", "code"];
    match parameters {
        Value::Object(map) => {
            for (name, value) in map {
                let lower = name.to_ascii_lowercase();
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

/// Without user, password and query: the parameters stand beside it.
fn redact_address(address: &mut Value) {
    let Value::String(uri) = address else { return redact(address) };
    let (path, query) = match uri.split_once('?') {
        Some((path, _)) => (path, format!("?{REDACTED}")),
        None => (uri.as_str(), String::new()),
    };
    let path = match path.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            match rest[..end].rfind('@') {
                Some(at) => format!("{scheme}://{REDACTED}{}", &rest[at..]),
                None => path.to_owned(),
            }
        }
        None => path.to_owned(),
    };
    *uri = path + &query;
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
