//! The rows about Zendesk: the credential and the configured numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, date};
use jiff::tz::TimeZone;

use super::settings::ticket::{Reference, ReferenceKind};
use super::settings::{ZendeskCredentials, ZendeskSettings};
use super::{AccessError, Grant, LookupResult, Zendesk, token};
use crate::report::{Finding, INCOMPLETE, Row, STEP, within};

/// The day on which Zendesk retires all API tokens.
pub(super) const END_OF_API_TOKENS: Date = date(2027, 4, 30);

const OAUTH_REMEDY: &str = "compare ZENDESK_OAUTH_CLIENT_ID (the identifier) and ZENDESK_OAUTH_CLIENT_SECRET with \
                            Admin Center > Apps and integrations > APIs > OAuth clients: kind Confidential, its \
                            user not suspended, and with the scopes {scopes} allowed";
const API_TOKEN_REMEDY: &str = "compare ZENDESK_USER_EMAIL and ZENDESK_API_TOKEN with Admin Center > Apps and \
                                integrations > APIs > API tokens, or better set up an OAuth client";
const SCOPE_REMEDY: &str = "allow the scopes {scopes} for the OAuth client (Admin Center > Apps and integrations > \
                            APIs > OAuth clients), and check the role of its user";
const ROLE_REMEDY: &str = "give the user of the credential a role that may see and create tickets, and see \
                           Zendesk's IP restrictions";
const ADDRESS_REMEDY: &str = "set ZENDESK_API_URL to https://YOUR-SUBDOMAIN.zendesk.com";
const AWAY_REMEDY: &str = "see Zendesk's status page, and whether this host reaches ZENDESK_API_URL (DNS, firewall, \
                           proxy)";
const FIELDS_REMEDY: &str = "set the variable to the number of one that is in use: Admin Center shows it in the \
                             address of its page; or remove the variable";
const UNKNOWN_REMEDY: &str =
    "see the number in Admin Center, or run the check with a credential that may see it";

/// The rows of Zendesk in `casebridge check`.
pub async fn rows(settings: Option<&ZendeskSettings>, http: &reqwest::Client) -> Vec<Row> {
    let [credential, fields] = match settings {
        Some(settings) => findings(settings, http.clone()).await,
        None => std::array::from_fn(|_| vec![Finding::not_checked(INCOMPLETE)]),
    };
    vec![Row::of("zendesk credential", credential), Row::of("zendesk fields", fields)]
}

/// The findings of two rows: the credential, and everything that is configured by its number.
async fn findings(config: &ZendeskSettings, client: reqwest::Client) -> [Vec<Finding>; 2] {
    let references = config.references.as_slice();
    // A call may take three tenths of an attempt.
    let zendesk = Zendesk::new(config.clone(), client, STEP * 10 / 3);
    let no_answer = || Err(AccessError::Away("Zendesk did not answer in time".to_owned()));
    let access = within(zendesk.access()).await.unwrap_or_else(no_answer);
    let grant = zendesk.grant().await;
    let credential = credential(config, &access, grant.as_ref());
    let not_checked = |reason| vec![Finding::not_checked(reason)];
    let fields = match access {
        _ if references.is_empty() => vec![Finding::ok("none configured")],
        Ok(()) => fields(&zendesk, references).await,
        Err(AccessError::Busy(_)) => not_checked("Zendesk asks to come back later"),
        Err(AccessError::Away(_)) => not_checked("Zendesk does not answer"),
        Err(AccessError::Address(_)) => not_checked("no Zendesk is at this address"),
        Err(_) => not_checked("the credential does not work"),
    };
    [vec![credential], fields]
}

/// The finding about the credential, with the remedy.
pub(super) fn credential(
    settings: &ZendeskSettings,
    access: &Result<(), AccessError>,
    grant: Option<&Grant>,
) -> Finding {
    let missing = grant.map(|grant| grant.lacks.join(" ")).filter(|missing| !missing.is_empty());
    let missing = missing.map(|missing| format!("; the token was issued without the scope {missing}"));
    let error = match (access, missing.is_some()) {
        (Ok(()), false) => return working(settings, grant),
        (Ok(()), true) => "the credential works".to_owned(),
        (Err(error), _) => error.to_string(),
    };
    let remedy = match access {
        Err(AccessError::Credential(_)) => match settings.credentials {
            ZendeskCredentials::OAuth { .. } => OAUTH_REMEDY,
            ZendeskCredentials::ApiToken { .. } => API_TOKEN_REMEDY,
        },
        Err(AccessError::Forbidden(_)) if missing.is_none() => ROLE_REMEDY,
        Ok(()) | Err(AccessError::Forbidden(_)) => SCOPE_REMEDY,
        Err(AccessError::Address(_)) => ADDRESS_REMEDY,
        Err(AccessError::Busy(log)) => {
            return Finding::warning(format!("it could not be tried: {log}"), "try again in a minute");
        }
        Err(AccessError::Away(_)) => AWAY_REMEDY,
    };
    Finding::failed(format!("{error}{}", missing.unwrap_or_default()), with_scopes(remedy, settings))
}

/// Fills in the scopes that the settings need.
fn with_scopes(remedy: &str, settings: &ZendeskSettings) -> String {
    let scopes = token::scope(settings).replace(' ', ", ").replace(", read", " and read");
    remedy.replace("{scopes}", &scopes)
}

fn working(settings: &ZendeskSettings, grant: Option<&Grant>) -> Finding {
    match (&settings.credentials, grant) {
        (ZendeskCredentials::ApiToken { .. }, _) => api_token(Timestamp::now()),
        (_, Some(grant)) if grant.is_narrow => {
            let scope = token::scope(settings);
            let text = format!(
                "Zendesk does not allow the OAuth client the scopes `{scope}`, so it works with fewer"
            );
            Finding::warning(text, with_scopes(SCOPE_REMEDY, settings))
        }
        (_, grant) => {
            let minutes = grant.map_or(Duration::ZERO, |grant| grant.life).as_secs() / 60;
            Finding::ok(format!(
                "the OAuth client works; a token lives {minutes} minutes and is renewed automatically"
            ))
        }
    }
}

fn api_token(now: Timestamp) -> Finding {
    let left = now.to_zoned(TimeZone::UTC).date().until(END_OF_API_TOKENS).map_or(0, |span| span.get_days());
    let text = format!(
        "the API token works; Zendesk retires all API tokens on {END_OF_API_TOKENS}, in {left} days, and deactivates \
         tokens that are not used for 30 days"
    );
    let remedy = "set up an OAuth client before: ZENDESK_OAUTH_CLIENT_ID and ZENDESK_OAUTH_CLIENT_SECRET";
    Finding::warning(text, remedy)
}

/// Looks up one reference after the other, as our share of Zendesk's requests allows, until the step is over.
async fn fields(zendesk: &Zendesk, references: &[Reference]) -> Vec<Finding> {
    let named = named(references);
    let mut results = Vec::new();
    let look_up = async {
        for (reference, _) in &named {
            results.push(zendesk.check_reference(reference).await);
        }
    };
    let _ = within(look_up).await;
    let no_time = || LookupResult::Unknown("only a few lookups per second are allowed".to_owned());
    results.resize_with(named.len(), no_time);
    judge_fields(&named, results)
}

/// Makes one finding for each reference that cannot be used, and one for each reason why some were not
/// checked.
fn judge_fields(named: &[(&Reference, String)], results: Vec<LookupResult>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut unknown: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut usable = 0;
    for ((reference, variables), result) in named.iter().zip(results) {
        let thing = format!("{variables}: {} {}", name_of(reference.to), reference.id);
        let flaw = match result {
            LookupResult::Usable => {
                usable += 1;
                continue;
            }
            LookupResult::Unknown(reason) => {
                unknown.entry(reason).or_default().push(thing);
                continue;
            }
            LookupResult::Missing => "does not exist, or this credential may not see it",
            LookupResult::Unusable(flaw) => flaw,
        };
        findings.push(Finding::failed(format!("{thing} {flaw}"), FIELDS_REMEDY));
    }
    let not_checked = |(reason, things): (String, Vec<String>)| {
        Finding::warning(format!("not checked, {reason}: {}", things.join("; ")), UNKNOWN_REMEDY)
    };
    findings.extend(unknown.into_iter().map(not_checked));
    if usable > 0 {
        findings.push(Finding::ok(format!("{usable} of {} exist and are in use", named.len())));
    }
    findings
}

fn name_of(to: ReferenceKind) -> &'static str {
    match to {
        ReferenceKind::Group => "group",
        ReferenceKind::Assignee => "user",
        ReferenceKind::Brand => "brand",
        ReferenceKind::Form => "form",
        ReferenceKind::Field => "field",
    }
}

/// Lists each thing once, with all variables that name it.
fn named(references: &[Reference]) -> Vec<(&Reference, String)> {
    let mut named: Vec<(&Reference, String)> = Vec::new();
    for reference in references {
        let is_same =
            |other: &&mut (&Reference, String)| (other.0.to, other.0.id) == (reference.to, reference.id);
        match named.iter_mut().find(is_same) {
            Some((_, variables)) => variables.push_str(&format!(", {}", reference.variable)),
            None => named.push((reference, reference.variable.clone())),
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_in_several_variables_is_one_thing() {
        let reference = |variable: &str, to, id| Reference { variable: variable.to_owned(), to, id };
        let references = [
            reference("TICKET_GROUP_ID", ReferenceKind::Group, 7),
            reference("TICKET_BRAND_ID", ReferenceKind::Brand, 7),
            reference("ROUTE_VIP_TICKET_GROUP_ID", ReferenceKind::Group, 7),
        ];
        let named = named(&references);
        let variables: Vec<&str> = named.iter().map(|(_, variables)| variables.as_str()).collect();
        assert_eq!(variables, ["TICKET_GROUP_ID, ROUTE_VIP_TICKET_GROUP_ID", "TICKET_BRAND_ID"]);
    }

    #[test]
    fn unchecked_fields_are_grouped_by_reason() {
        let reference = |to, id| Reference { variable: "TICKET_X".to_owned(), to, id };
        let references = [7, 8, 9].map(|id| reference(ReferenceKind::Field, id));
        let unknown = || LookupResult::Unknown("403".to_owned());
        let findings = judge_fields(&named(&references), vec![unknown(), LookupResult::Usable, unknown()]);
        let texts: Vec<&str> = findings.iter().map(|finding| finding.text.as_str()).collect();
        assert_eq!(
            texts,
            ["not checked, 403: TICKET_X: field 7; TICKET_X: field 9", "1 of 3 exist and are in use"]
        );
    }

    #[test]
    fn the_end_of_api_tokens_is_counted_in_days() {
        let row = api_token("2027-04-01T12:00:00Z".parse().unwrap());
        assert!(row.text.contains("on 2027-04-30, in 29 days"), "{}", row.text);
    }
}
