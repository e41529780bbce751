//! The rows about Zendesk.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, date};
use jiff::tz::TimeZone;

use super::report::{Finding, Row};
use super::{STEP, ZENDESK_CREDENTIAL, ZENDESK_FIELDS, within};
use crate::config::{self, Reference, ReferenceKind, ZendeskCredentials};
use crate::destination::zendesk::{AccessError, Grant, LookupResult, SCOPE, Zendesk};

/// When Zendesk ends all API tokens.
const END_OF_API_TOKENS: Date = date(2027, 4, 30);

const OAUTH_REMEDY: &str = "compare ZENDESK_OAUTH_CLIENT_ID (the identifier) and ZENDESK_OAUTH_CLIENT_SECRET with \
                            Admin Center > Apps and integrations > APIs > OAuth clients: kind Confidential, its \
                            user not suspended, and with the scopes tickets:write, users:write and read allowed";
const API_TOKEN_REMEDY: &str = "compare ZENDESK_USER_EMAIL and ZENDESK_API_TOKEN with Admin Center > Apps and \
                                integrations > APIs > API tokens, or better set up an OAuth client";
const SCOPE_REMEDY: &str = "let the OAuth client have the scopes tickets:write, users:write and read (Admin Center \
                            > Apps and integrations > APIs > OAuth clients), and see the role of its user";
const ROLE_REMEDY: &str = "give the user of the credential a role that may see and create tickets, and see \
                           Zendesk's IP restrictions";
const ADDRESS_REMEDY: &str = "set ZENDESK_API_URL to https://YOUR-SUBDOMAIN.zendesk.com";
const AWAY_REMEDY: &str = "see Zendesk's status page, and whether this host reaches ZENDESK_API_URL (DNS, firewall, \
                           proxy)";
const FIELDS_REMEDY: &str = "set the variable to the number of one that is in use: Admin Center shows it in the \
                             address of its page; or remove the variable";
const UNKNOWN_REMEDY: &str =
    "see the number in Admin Center, or run the check with a credential that may look";

/// Both rows: the credential, and what is configured by its number.
pub async fn rows(
    config: &config::Zendesk,
    routes: &[config::Route],
    references: &[Reference],
    client: reqwest::Client,
) -> [Row; 2] {
    // Of an attempt each call may take three tenths.
    // Only deliveries have a route: if no route could be read, any will do.
    let routes = if routes.is_empty() { vec![config::Route::default()] } else { routes.to_vec() };
    let zendesk = Zendesk::new(config.clone(), routes, client, STEP * 10 / 3);
    let no_answer = || Err(AccessError::Away("Zendesk did not answer in time".to_owned()));
    let access = within(zendesk.access()).await.unwrap_or_else(no_answer);
    let grant = zendesk.grant().await;
    let credential = credential(&config.credentials, &access, grant.as_ref());
    let fields = match access {
        _ if references.is_empty() => Row::ok(ZENDESK_FIELDS, "none configured"),
        Ok(()) => fields(&zendesk, references).await,
        Err(AccessError::Busy(_)) => Row::not_checked(ZENDESK_FIELDS, "Zendesk asks to come back later"),
        Err(AccessError::Away(_)) => Row::not_checked(ZENDESK_FIELDS, "Zendesk does not answer"),
        Err(AccessError::Address(_)) => Row::not_checked(ZENDESK_FIELDS, "no Zendesk is at this address"),
        Err(_) => Row::not_checked(ZENDESK_FIELDS, "the credential does not work"),
    };
    [credential, fields]
}

fn credential(
    credentials: &ZendeskCredentials,
    access: &Result<(), AccessError>,
    grant: Option<&Grant>,
) -> Row {
    let lacks = grant.map(|grant| grant.lacks.join(" ")).filter(|lacks| !lacks.is_empty());
    let lacks = lacks.map(|lacks| format!("the token was made without the scope {lacks}"));
    let remedy = match access {
        Ok(()) => return working(credentials, grant, lacks),
        Err(AccessError::Credential(_)) => match credentials {
            ZendeskCredentials::OAuth { .. } => OAUTH_REMEDY,
            ZendeskCredentials::ApiToken { .. } => API_TOKEN_REMEDY,
        },
        Err(AccessError::Forbidden(_)) if lacks.is_some() => SCOPE_REMEDY,
        Err(AccessError::Forbidden(_)) => ROLE_REMEDY,
        Err(AccessError::Address(_)) => ADDRESS_REMEDY,
        Err(AccessError::Busy(log)) => {
            let text = format!("it could not be tried: {log}");
            return Row::warning(ZENDESK_CREDENTIAL, text, Some("try again in a minute".to_owned()));
        }
        Err(AccessError::Away(_)) => AWAY_REMEDY,
    };
    let text = access.as_ref().err().map(AccessError::to_string).unwrap_or_default();
    Row::failed(ZENDESK_CREDENTIAL, lacks.map_or(text.clone(), |lacks| format!("{text}\n{lacks}")), remedy)
}

fn working(credentials: &ZendeskCredentials, grant: Option<&Grant>, lacks: Option<String>) -> Row {
    if let Some(lacks) = lacks {
        return Row::failed(ZENDESK_CREDENTIAL, lacks, SCOPE_REMEDY);
    }
    match (credentials, grant) {
        (ZendeskCredentials::ApiToken { .. }, _) => api_token(Timestamp::now()),
        (_, Some(grant)) if grant.is_narrow => {
            let text = format!("the OAuth client may not have the scopes `{SCOPE}`, and works with fewer");
            Row::warning(ZENDESK_CREDENTIAL, text, Some(SCOPE_REMEDY.to_owned()))
        }
        (_, grant) => {
            let minutes = grant.map_or(Duration::ZERO, |grant| grant.life).as_secs() / 60;
            let text =
                format!("the OAuth client works; a token lives {minutes} minutes and is renewed by itself");
            Row::ok(ZENDESK_CREDENTIAL, text)
        }
    }
}

fn api_token(now: Timestamp) -> Row {
    let left = now.to_zoned(TimeZone::UTC).date().until(END_OF_API_TOKENS).map_or(0, |span| span.get_days());
    let text = format!(
        "the API token works; Zendesk ends all of them on {END_OF_API_TOKENS}, in {left} days, and switches off \
         what is not used for 30"
    );
    let remedy = "set up an OAuth client before: ZENDESK_OAUTH_CLIENT_ID and ZENDESK_OAUTH_CLIENT_SECRET";
    Row::warning(ZENDESK_CREDENTIAL, text, Some(remedy.to_owned()))
}

/// One after the other, as our share of Zendesk's requests allows, and until the step is over.
async fn fields(zendesk: &Zendesk, references: &[Reference]) -> Row {
    let named = named(references);
    let mut seen = Vec::new();
    let ask = async {
        for (reference, _) in &named {
            seen.push(zendesk.check_reference(reference).await);
        }
    };
    let _ = within(ask).await;
    let no_time = || LookupResult::Unknown("only a few a second may be, and the time was over".to_owned());
    seen.resize_with(named.len(), no_time);
    Row::of(ZENDESK_FIELDS, &findings(&named, seen))
}

/// What cannot be used has a finding each, and what was not looked at one for each reason.
fn findings(named: &[(&Reference, String)], seen: Vec<LookupResult>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut unknown: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut well = 0;
    for ((reference, variables), presence) in named.iter().zip(seen) {
        let thing = format!("{variables}: {} {}", word(reference.to), reference.id);
        let flaw = match presence {
            LookupResult::Usable => {
                well += 1;
                continue;
            }
            LookupResult::Unknown(why) => {
                unknown.entry(why).or_default().push(thing);
                continue;
            }
            LookupResult::Missing => "is not there, or not to be seen",
            LookupResult::Unusable(flaw) => flaw,
        };
        findings.push(Finding::failed(format!("{thing} {flaw}"), FIELDS_REMEDY));
    }
    let not_looked_at = |(why, things): (String, Vec<String>)| {
        Finding::warning(format!("not looked at, {why}: {}", things.join("; ")), UNKNOWN_REMEDY)
    };
    findings.extend(unknown.into_iter().map(not_looked_at));
    if well > 0 {
        findings.push(Finding::ok(format!("{well} of {} are there and in use", named.len())));
    }
    findings
}

fn word(to: ReferenceKind) -> &'static str {
    match to {
        ReferenceKind::Group => "group",
        ReferenceKind::Assignee => "user",
        ReferenceKind::Brand => "brand",
        ReferenceKind::Form => "form",
        ReferenceKind::Field => "field",
    }
}

/// Each thing once, with all variables that name it.
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
    fn what_several_variables_name_is_one_thing() {
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
    fn what_was_not_looked_at_is_told_once_for_each_reason() {
        let reference = |to, id| Reference { variable: "TICKET_X".to_owned(), to, id };
        let references = [7, 8, 9].map(|id| reference(ReferenceKind::Field, id));
        let unknown = || LookupResult::Unknown("403".to_owned());
        let findings = findings(&named(&references), vec![unknown(), LookupResult::Usable, unknown()]);
        let texts: Vec<&str> = findings.iter().map(|finding| finding.text.as_str()).collect();
        assert_eq!(
            texts,
            ["not looked at, 403: TICKET_X: field 7; TICKET_X: field 9", "1 of 3 are there and in use"]
        );
    }

    #[test]
    fn the_end_of_api_tokens_is_counted_in_days() {
        let row = api_token("2027-04-01T12:00:00Z".parse().unwrap());
        assert!(row.text.contains("on 2027-04-30, in 29 days"), "{}", row.text);
    }
}
