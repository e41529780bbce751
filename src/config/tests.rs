mod documents;

use secrecy::ExposeSecret;
use sqlx::postgres::PgSslMode;

use super::*;
use crate::destination::zendesk::settings::ticket::{Repeat, Requester, TicketType};
use crate::destination::zendesk::settings::{ZendeskCredentials, ZendeskSettings};
use crate::item::Priority;

const COMPLETE: &[(&str, &str)] = &[
    ("SPREDFAST_API_TOKEN", "khoros-token"),
    ("SPREDFAST_COMPANY_ID", "1234"),
    ("SPREDFAST_LABEL_NAME", "CreateCase"),
    ("ZENDESK_API_URL", "https://acme.zendesk.com"),
    ("ZENDESK_OAUTH_CLIENT_ID", "casebridge"),
    ("ZENDESK_OAUTH_CLIENT_SECRET", "oauth-secret"),
    ("NOTIFICATION_BEARER_TOKEN", "0123456789abcdef01234567"),
];

/// The complete environment with some variables changed; an empty value is an absent one.
fn config(changes: &[(&str, &str)]) -> Result<Config, Problems> {
    let vars = COMPLETE.iter().chain(changes).map(|(name, value)| (name.into(), value.into()));
    Config::from_vars(vars)
}

fn accepted(changes: &[(&str, &str)]) -> Config {
    config(changes).unwrap_or_else(|problems| panic!("{problems}"))
}

fn zendesk(config: &Config) -> &ZendeskSettings {
    config.destinations.zendesk.as_ref().unwrap()
}

fn refused(changes: &[(&str, &str)]) -> String {
    match config(changes) {
        Ok(_) => panic!("accepted: {changes:?}"),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn pasted_values_are_understood() {
    let config = accepted(&[
        ("ZENDESK_API_URL", " https://acme.zendesk.com/agent/dashboard?brand=1#top "),
        ("SPREDFAST_COMPANY_ID", "20,307,234"),
        ("SPREDFAST_API_TOKEN", "Bearer khoros-token"),
        (
            "NOTIFICATION_BEARER_TOKEN",
            "\"bearer 0123456789abcdef01234567, Bearer fedcba9876543210fedcba98,\"",
        ),
        ("PUBLIC_URL", "bridge.example.com/khoros/label/"),
        ("ZENDESK_BUDGET_PERCENT", "40 %"),
    ]);
    assert_eq!(zendesk(&config).url.as_str(), "https://acme.zendesk.com/");
    assert_eq!(config.khoros.company_id, 20_307_234);
    assert_eq!(config.khoros.token.expose_secret(), "khoros-token");
    assert_eq!(zendesk(&config).budget_percent, 40);
    assert_eq!(config.general.public_url.map(String::from).as_deref(), Some("https://bridge.example.com/"));
    let tokens: Vec<_> = config.general.bearer_tokens.iter().map(|token| token.expose_secret()).collect();
    assert_eq!(tokens, ["0123456789abcdef01234567", "fedcba9876543210fedcba98"]);
}

#[test]
fn the_mode_decides_how_events_come() {
    let seconds = Duration::from_secs;
    let config_of = |changes| config(changes).unwrap();
    let both = config_of(&[]);
    assert_eq!((both.khoros.mode, both.khoros.poll_every), (Mode::Both, seconds(300)));
    assert_eq!((both.khoros.check_every, both.general.public_url_probe), (seconds(600), seconds(60)));
    assert_eq!(both.general.silence_alert, None);
    let poll = config_of(&[("SPREDFAST_MODE", "poll"), ("NOTIFICATION_BEARER_TOKEN", "")]);
    assert_eq!((poll.khoros.mode, poll.khoros.poll_every), (Mode::Poll, seconds(30)));
    assert!(poll.general.bearer_tokens.is_empty());
    assert_eq!(poll.general.public_url_probe, Duration::ZERO);
    let set = config_of(&[
        ("SPREDFAST_MODE", "Push"),
        ("SPREDFAST_POLL_SECONDS", "7"),
        ("SPREDFAST_CHECK_MINUTES", "0.5"),
        ("PUBLIC_URL_PROBE_SECONDS", "0"),
        ("SILENCE_ALERT_HOURS", "1.5"),
    ]);
    assert_eq!((set.khoros.mode, set.khoros.poll_every), (Mode::Push, seconds(7)));
    assert_eq!((set.khoros.check_every, set.general.public_url_probe), (seconds(30), Duration::ZERO));
    assert_eq!(set.general.silence_alert, Some(seconds(5400)));
    refused(&[("SPREDFAST_MODE", "push"), ("NOTIFICATION_BEARER_TOKEN", "")]);
}

#[test]
fn a_date_is_in_utc_unless_it_has_an_offset() {
    assert_eq!(accepted(&[]).khoros.feed_since, None);
    for (text, expected) in [
        ("2026-05-01", "2026-05-01T00:00:00Z"),
        ("2026-05-01T08:00", "2026-05-01T08:00:00Z"),
        ("2026-05-01 08:00:30", "2026-05-01T08:00:30Z"),
        ("2026-05-01T08:00Z", "2026-05-01T08:00:00Z"),
        ("2026-05-01T08:00+02:00", "2026-05-01T06:00:00Z"),
        ("1970-01-01", "1970-01-01T00:00:00Z"),
    ] {
        let since = accepted(&[("FEED_SINCE", text)]).khoros.feed_since;
        assert_eq!(since.map(|since| since.to_string()).as_deref(), Some(expected), "{text}");
    }
    for text in ["yesterday", "2026-13-01", "2026-05", "1777593600", "01.05.2026", "2026-05-01+02:00", "all"]
    {
        let report = refused(&[("FEED_SINCE", text)]);
        assert!(report.contains("FEED_SINCE is not a date or a time, as in 2026-05-01 "), "{text}: {report}");
    }
}

#[test]
fn all_problems_come_in_one_report_without_values() {
    let report = refused(&[
        ("SPREDFAST_MODE", "value"),
        ("SPREDFAST_POLL_SECONDS", "0"),
        ("SPREDFAST_CHECK_MINUTES", "NaN"),
        ("PUBLIC_URL_PROBE_SECONDS", "-1"),
        ("SILENCE_ALERT_HOURS", "inf"),
        ("SPREDFAST_API_TOKEN", ""),
        ("SPREDFAST_COMPANY_ID", "acme-value"),
        ("ZENDESK_API_URL", "http://acme-value.zendesk.com"),
        ("ZENDESK_OAUTH_CLIENT_SECRET", ""),
        ("NOTIFICATION_BEARER_TOKEN", "short-value"),
        ("PORT", "value"),
        ("RETRY_SCHEDULE", "5,value"),
        ("LEASE_SECONDS", "1"),
        ("RETENTION_DAYS", "0"),
        ("LOG_FORMAT", "value"),
        ("RUST_LOG", "value"),
        ("ADMIN_TOKEN", "value"),
        ("DATABASE_URL", "mysql://value"),
    ]);
    for name in [
        "SPREDFAST_API_TOKEN is not set",
        "SPREDFAST_COMPANY_ID",
        "ZENDESK_API_URL",
        "ZENDESK_OAUTH_CLIENT_SECRET is not set, but ZENDESK_OAUTH_CLIENT_ID is",
        "NOTIFICATION_BEARER_TOKEN",
        "PORT",
        "RETRY_SCHEDULE",
        "LEASE_SECONDS",
        "RETENTION_DAYS",
        "LOG_FORMAT",
        "RUST_LOG",
        "ADMIN_TOKEN",
        "DATABASE_URL",
        "SPREDFAST_MODE",
        "SPREDFAST_POLL_SECONDS",
        "SPREDFAST_CHECK_MINUTES",
        "PUBLIC_URL_PROBE_SECONDS",
        "SILENCE_ALERT_HOURS",
    ] {
        assert!(report.contains(name), "{name} is missing in: {report}");
    }
    assert!(!report.contains("value"), "a value is in: {report}");
    assert!(report.starts_with("the configuration has 18 problems:"), "{report}");
}

#[test]
fn a_weak_token_is_refused_and_a_short_one_gets_a_warning() {
    for name in ["NOTIFICATION_BEARER_TOKEN", "ADMIN_TOKEN"] {
        for weak in ["0123456789abcde", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "abcabcabcabcabcabcabcabcabcabc"]
        {
            assert!(refused(&[(name, weak)]).contains("openssl rand -hex 32"), "{name}");
        }
        let config = accepted(&[(name, "0123456789abcdef")]);
        assert!(config.warnings[0].contains("openssl rand -hex 32"), "{:?}", config.warnings);
        assert!(accepted(&[(name, "0123456789abcdef01234567")]).warnings.is_empty());
    }
    let one_of_two = "0123456789abcdef01234567,aaaaaaaaaaaaaaaaaaaaaaaa";
    assert!(refused(&[("NOTIFICATION_BEARER_TOKEN", one_of_two)]).contains("8 different"));
}

#[test]
fn unsafe_settings_are_refused() {
    for (name, value) in [
        ("ZENDESK_API_URL", "http://acme.zendesk.com"),
        ("PUBLIC_URL", "http://bridge.example.com"),
        ("SPREDFAST_API_URL", "ftp://api.spredfast.com"),
        ("ZENDESK_API_URL", "https://me:secret@acme.zendesk.com"),
        ("ZENDESK_API_URL", "acme"),
        ("DATABASE_URL", "sqlite::memory:"),
        ("DATABASE_URL", "sqlite://casebridge.db?mode=ro"),
        ("DATABASE_URL", "postgres://u:p@db.example.com/c?pasword=secret"),
        ("SPREDFAST_COMPANY_ID", "1234.5"),
        ("RUST_LOG", "[[["),
        ("NOTIFICATION_BEARER_TOKEN", "\"\""),
        ("DYNO", "web.1"),
    ] {
        refused(&[(name, value)]);
    }
    accepted(&[("ZENDESK_API_URL", "http://127.0.0.1:4000")]);
    accepted(&[("DYNO", "web.1"), ("ALLOW_EPHEMERAL_STORE", "1")]);
}

#[test]
fn a_dyno_uses_tls_for_its_postgres() {
    let mode = |changes: &[(&str, &str)]| match accepted(changes).database {
        Database::Postgres(server) => server.options.get_ssl_mode(),
        Database::Sqlite(_) => panic!("not Postgres"),
    };
    let url = ("DATABASE_URL", "postgres://u:p@db.example.com/c");
    assert!(matches!(mode(&[url]), PgSslMode::Prefer));
    assert!(matches!(mode(&[url, ("DYNO", "web.1")]), PgSslMode::Require));
    let full = ("DATABASE_URL", "postgres://u:p@db.example.com/c?sslmode=verify-full");
    assert!(matches!(mode(&[full, ("DYNO", "web.1")]), PgSslMode::VerifyFull));
}

#[test]
fn connection_strings_of_hosts_are_understood() {
    let with = |url| accepted(&[("DATABASE_URL", url)]);
    let neon = with("psql 'postgresql://u:secret@db.example.com/c?sslmode=require&channel_binding=require'");
    assert_eq!(neon.database.to_string(), "postgres://u@db.example.com:5432/c");
    assert_eq!(
        neon.warnings,
        ["DATABASE_URL: casebridge ignores options that it does not use: channel_binding"]
    );
    for url in [
        "jdbc:postgresql://db.example.com/c?user=u&password=secret",
        "postgres://u:secret/s@db.example.com/c",
        "postgresql+asyncpg://u:p@db.example.com/c?ssl=secret",
    ] {
        let report = refused(&[("DATABASE_URL", url)]);
        assert!(report.contains("\n  - DATABASE_URL ") && !report.contains("secret"), "{report}");
    }
}

#[test]
fn a_pooler_can_be_set_or_detected() {
    let pooler =
        |url, setting| match accepted(&[("DATABASE_URL", url), ("DATABASE_POOLER", setting)]).database {
            Database::Postgres(server) => server.pooler,
            Database::Sqlite(_) => panic!("not Postgres"),
        };
    let (plain, supabase) = ("postgres://u:p@HOST/db", "postgres://u:p@HOST:6543/db?pgbouncer=true");
    assert_eq!(pooler(plain, ""), Pooler::Detect);
    assert_eq!((pooler(plain, "1"), pooler(plain, "0")), (Pooler::Present, Pooler::Absent));
    assert_eq!((pooler(supabase, ""), pooler(supabase, "0")), (Pooler::Present, Pooler::Absent));
    refused(&[("DATABASE_POOLER", "value")]);
    accepted(&[("DATABASE_POOLER", "1")]);
}

#[test]
fn the_public_url_is_found_on_every_platform() {
    const HEROKU: &str = "HEROKU_APP_NAME";
    const DYNO: &str = "HEROKU_APP_DEFAULT_DOMAIN_NAME";
    for (changes, url, variable) in [
        (vec![], None, "PUBLIC_URL"),
        (vec![(HEROKU, "acme")], Some("https://acme.herokuapp.com/"), HEROKU),
        (vec![(HEROKU, "acme-0a1b.herokuapp.com")], Some("https://acme-0a1b.herokuapp.com/"), HEROKU),
        (vec![("FLY_APP_NAME", "acme")], Some("https://acme.fly.dev/"), "FLY_APP_NAME"),
        (
            vec![("RAILWAY_PUBLIC_DOMAIN", "acme.up.railway.app")],
            Some("https://acme.up.railway.app/"),
            "RAILWAY_PUBLIC_DOMAIN",
        ),
        (
            vec![("RENDER_EXTERNAL_URL", "https://acme.onrender.com")],
            Some("https://acme.onrender.com/"),
            "RENDER_EXTERNAL_URL",
        ),
        (vec![(HEROKU, "acme"), (DYNO, "acme-1.herokuapp.com")], Some("https://acme-1.herokuapp.com/"), DYNO),
        (
            vec![("PUBLIC_URL", "https://me.example.com"), ("FLY_APP_NAME", "acme")],
            Some("https://me.example.com/"),
            "PUBLIC_URL",
        ),
    ] {
        let config = accepted(&changes);
        assert_eq!(config.general.public_url.as_ref().map(Url::as_str), url, "{changes:?}");
        assert_eq!(config.general.public_url_variable, variable, "{changes:?}");
    }
}

#[test]
fn a_credential_is_one_whole_pair() {
    let legacy = [
        ("ZENDESK_OAUTH_CLIENT_ID", ""),
        ("ZENDESK_OAUTH_CLIENT_SECRET", ""),
        ("ZENDESK_USER_EMAIL", "me@example.com/token"),
        ("ZENDESK_API_TOKEN", "legacy"),
    ];
    let config = accepted(&legacy);
    assert!(matches!(&zendesk(&config).credentials,
        ZendeskCredentials::ApiToken { email, .. } if email == "me@example.com"));
    assert_eq!(config.warnings.len(), 1);

    let both = accepted(&legacy[2..]);
    assert!(matches!(zendesk(&both).credentials, ZendeskCredentials::OAuth { .. }));
    assert!(refused(&legacy[..2]).contains("no Zendesk credential"));
    assert!(refused(&legacy[..3]).contains("ZENDESK_API_TOKEN is not set"));
}

#[test]
fn routes_inherit_missing_settings() {
    let config = accepted(&[
        ("TICKET_GROUP_ID", "1"),
        ("TICKET_PRIORITY", "low"),
        ("ROUTE_VIP_LABEL", "VIP"),
        ("ROUTE_VIP_TICKET_GROUP_ID", "2"),
        ("ROUTE_Alerts_EVENT", "Credential-Deauth"),
        ("SPREDFAST_EXTERNAL_ID", "staging"),
    ]);
    let routes: Vec<_> = config
        .general
        .routes
        .iter()
        .map(|route| {
            let query = route.query.as_deref().unwrap_or("-");
            let (group, priority) = {
                let ticket = zendesk(&config).ticket(&route.name);
                (ticket.group_id.unwrap(), ticket.priority)
            };
            format!("{} {} {query} {} {group} {priority:?}", route.name, route.event, route.external_id)
        })
        .collect();
    assert_eq!(
        routes,
        [
            "label stream-item-label-applied CreateCase staging 1 Low",
            "alerts credential-deauth - staging-alerts 1 Low",
            "vip stream-item-label-applied ^VIP$ staging-vip 2 Low",
        ]
    );
    let alone = accepted(&[("SPREDFAST_LABEL_NAME", ""), ("ROUTE_LABEL_LABEL", "CreateCase")]);
    assert_eq!(alone.general.routes.len(), 1);
}

#[test]
fn a_label_that_khoros_would_not_find_gets_a_warning() {
    for (value, sent, warned) in [
        ("CreateCase", "CreateCase", None),
        ("^CreateCase$", "^CreateCase$", None),
        ("VIP|Create.*", "VIP|Create.*", None),
        ("\u{feff}Create\u{200b}Case\u{200b} ", "CreateCase", None),
        ("👩\u{200d}👩", "👩\u{200d}👩", None),
        ("Create Case (VIP)", "Create Case (VIP)", Some("the regular expression `Create Case (VIP)`, which")),
        ("C++ [new", "C++ [new", Some("does not match a label of this name")),
        ("CreateCase   # our label", "CreateCase   # our label", Some("contains a #")),
    ] {
        let config = accepted(&[("SPREDFAST_LABEL_NAME", value)]);
        assert_eq!(config.general.routes[0].query.as_deref(), Some(sent));
        assert_eq!(config.general.routes[0].label.as_deref(), Some(sent));
        match warned {
            None => assert!(config.warnings.is_empty(), "{:?}", config.warnings),
            Some(warned) => {
                assert!(config.warnings[0].contains(warned), "{:?}", config.warnings)
            }
        }
    }
    let route = accepted(&[("ROUTE_VIP_LABEL", "Create Case (VIP)"), ("ROUTE_B_QUERY", "b # c")]);
    assert_eq!(route.warnings.len(), 1, "{:?}", route.warnings);
    assert!(route.warnings[0].contains("ROUTE_B_QUERY contains a #"));
    let token = accepted(&[("SPREDFAST_API_TOKEN", "\u{200b}khoros-token\u{feff}")]).khoros.token;
    assert_eq!(token.expose_secret(), "khoros-token");
}

#[test]
fn every_wrong_route_is_named() {
    let report = refused(&[
        ("ROUTE_A_EVENT", "nothing"),
        ("ROUTE_B_LABEL", "x"),
        ("ROUTE_B_QUERY", "y"),
        ("ROUTE_C_EVENT", "rule-applied"),
        ("ROUTE_C_LABEL", "x"),
        ("ROUTE_D_TICKET_TAGS", "x"),
        ("ROUTE_E_QUERY", "x"),
        ("ROUTE_e_QUERY", "x"),
        ("ROUTE_F_QUERY", "x"),
        ("ROUTE_F_TICKET_STATUS", "closed"),
        ("ROUTE_LABEL_QUERY", "x"),
        ("ROUTE_G_EVENT", "vault-acount-create"),
        ("ROUTE_H_QUERY", "same"),
        ("ROUTE_I_QUERY", "same"),
        ("ROUTE_J_LABLE", "x"),
        ("ROUTE_VIP-2_LABEL", "x"),
    ]);
    for named in [
        "ROUTE_A_EVENT is not an event that Khoros publishes",
        "ROUTE_B_LABEL and ROUTE_B_QUERY are both set",
        "ROUTE_C_LABEL is set, but its event has no label",
        "ROUTE_D_LABEL is not set",
        "ROUTE_E_… and ROUTE_e_… are the same name",
        "ROUTE_F_TICKET_STATUS cannot be closed",
        "ROUTE_LABEL_…: there is a route `label` already",
        "ROUTE_G_EVENT is not an event",
        "ROUTE_I_…: the route `h` has the same events",
        "ROUTE_J_LABLE is not a route setting",
        "ROUTE_VIP-2_LABEL is not a route setting",
        "did you mean ROUTE_VIP2_LABEL?",
    ] {
        assert!(report.contains(named), "{named} is missing in: {report}");
    }
    assert!(refused(&[("SPREDFAST_LABEL_NAME", "")]).contains("neither is any ROUTE_<NAME>_LABEL"));
    for name in ["ROUTE_VIP_2_LABEL", "ROUTE_VIP-2_LABEL", "ROUTE_VIP_LABLE"] {
        assert!(refused(&[(name, "x")]).contains(&format!("{name} is not a route setting")));
    }
    let config =
        accepted(&[("ROUTE_V_QUERY", "x"), ("ROUTE_V_TICKET_PRIO", "x"), ("ROUTE_SERVICE_HOST", "10.0.0.1")]);
    assert_eq!(
        config.warnings,
        [
            "ROUTE_SERVICE_HOST is not a casebridge setting: `casebridge settings` lists them",
            "ROUTE_V_TICKET_PRIO is not a casebridge setting: did you mean ROUTE_V_TICKET_PRIORITY?",
        ]
    );
}

#[test]
fn an_unknown_name_gets_a_warning() {
    let config = accepted(&[("TICKET_PRIO", "high"), ("TICKET_GROUP_ID", "1"), ("OTHER_TICKET_X", "1")]);
    assert_eq!(config.warnings, ["TICKET_PRIO is not a casebridge setting: did you mean TICKET_PRIORITY?"]);
    let solved = accepted(&[("TICKET_STATUS", "solved")]);
    assert!(solved.warnings[0].contains("TICKET_ASSIGNEE_ID"), "{:?}", solved.warnings);
}

#[test]
fn the_names_of_the_2017_example_still_work() {
    let config = accepted(&[
        ("ZENDESK_API_URL", ""),
        ("ZENDESK_APP_URL", "https://old.zendesk.com"),
        ("NOTIFICATION_BEARER_TOKEN", ""),
        ("NOTIFIER_BEARER_TOKEN", "fedcba9876543210fedcba98"),
    ]);
    assert_eq!(zendesk(&config).url.as_str(), "https://old.zendesk.com/");
    assert_eq!(config.warnings.len(), 2);
}

#[test]
#[cfg(unix)]
fn a_variable_that_is_not_utf8_is_named() {
    use std::os::unix::ffi::OsStringExt;
    let vars = COMPLETE.iter().map(|(name, value)| (name.into(), value.into()));
    let broken = OsString::from_vec(vec![0xff, 0xfe]);
    let foreign = [("HOME".into(), broken.clone()), ("SPREDFAST_API_TOKEN".into(), broken)];
    let problems = Config::from_vars(vars.chain(foreign)).err().map(|problems| problems.to_string());
    let problems = problems.unwrap_or_default();
    assert!(problems.contains("SPREDFAST_API_TOKEN is not valid UTF-8"), "{problems}");
    assert!(!problems.contains("HOME"));
}

#[test]
fn no_attempt_outlives_its_lease() {
    for seconds in [6, 60, 3600] {
        let delivery = accepted(&[("LEASE_SECONDS", &seconds.to_string())]).general.delivery;
        assert!(delivery.attempt_limit() + Duration::from_secs(1) <= delivery.lease);
    }
}

#[test]
fn a_ticket_has_defaults() {
    let config = accepted(&[]);
    let ticket = zendesk(&config).ticket("label").clone();
    assert_eq!((ticket.requester, ticket.repeat), (Requester::Author, Repeat::New));
    assert_eq!((ticket.public, ticket.priority), (false, Priority::Normal));
    assert!(ticket.tags.is_empty() && ticket.custom_fields.is_empty() && ticket.subject.is_none());
    assert_eq!((zendesk(&config).budget_percent, zendesk(&config).update_budget_percent), (30, 30));
    assert_eq!(ticket.max_per_hour, 300);
    assert!(config.warnings.is_empty());
}

#[test]
fn pasted_values_of_a_ticket_are_understood() {
    let config = accepted(&[
        ("TICKET_REQUESTER", "Service"),
        ("TICKET_REPEAT", "ignore"),
        ("TICKET_PUBLIC", "TRUE"),
        ("TICKET_TAGS", " VIP, care:Émile/1.2 ,, vip,"),
        ("TICKET_TYPE", "Problem"),
        ("TICKET_CUSTOM_FIELDS", r#"'{"20": ["a", "b"], "3": false}'"#),
        ("ZENDESK_UPDATE_BUDGET_PERCENT", "100%"),
    ]);
    let ticket = zendesk(&config).ticket("label").clone();
    assert_eq!((ticket.requester, ticket.repeat), (Requester::Service, Repeat::Ignore));
    assert_eq!(ticket.tags, ["vip", "care:émile/1.2"]);
    assert_eq!(ticket.kind, Some(TicketType::Problem));
    let ids: Vec<u64> = ticket.custom_fields.iter().map(|field| field.id).collect();
    assert_eq!(ids, [3, 20]);
    assert_eq!(zendesk(&config).update_budget_percent, 100);
    assert!(config.warnings[0].contains("TICKET_PUBLIC: notes of Khoros' users are internal"));
    assert_eq!(config.warnings.len(), 1);
}

#[test]
fn a_wrong_ticket_is_reported_by_its_variables() {
    let long = "t".repeat(81);
    let many: Vec<String> = (0..21).map(|n| format!("t{n}")).collect();
    for (name, value, problem) in [
        ("TICKET_REQUESTER", "value", "TICKET_REQUESTER is neither author nor service"),
        ("TICKET_REPEAT", "value", "TICKET_REPEAT is not one of new, comment and ignore"),
        ("TICKET_MAX_PER_HOUR", "-1", "TICKET_MAX_PER_HOUR is not a number from 0 to 10000"),
        ("TICKET_PUBLIC", "value", "TICKET_PUBLIC is neither 1 nor 0"),
        ("TICKET_PRIORITY", "value", "TICKET_PRIORITY is not one of"),
        ("TICKET_TYPE", "value", "TICKET_TYPE is not one of"),
        ("TICKET_STATUS", "value", "TICKET_STATUS is not one of"),
        ("TICKET_STATUS", "Closed", "TICKET_STATUS cannot be closed: a closed ticket can never be changed"),
        ("TICKET_GROUP_ID", "0", "TICKET_GROUP_ID is not an id"),
        ("TICKET_ASSIGNEE_ID", "value", "TICKET_ASSIGNEE_ID is not an id"),
        ("TICKET_BRAND_ID", "-1", "TICKET_BRAND_ID is not an id"),
        ("TICKET_FORM_ID", "1.5", "TICKET_FORM_ID is not an id"),
        ("TICKET_TAGS", "fine,a value", "TICKET_TAGS is not a list of tags"),
        ("TICKET_TAGS", &long, "TICKET_TAGS is not a list of tags"),
        ("TICKET_TAGS", &many.join(","), "TICKET_TAGS contains more than 20 tags"),
        ("TICKET_TAGS", "casebridge_fallback", "TICKET_TAGS contains casebridge_fallback"),
        ("TICKET_SUBJECT", "value {{ item.", "TICKET_SUBJECT: syntax error in line 1"),
        (
            "TICKET_SUBJECT",
            "value {{ item.entityID }}",
            "TICKET_SUBJECT: unknown names: `item.entityID`; known names:",
        ),
        ("TICKET_COMMENT", "value\n{{ item.text|shout }}", "TICKET_COMMENT: unknown filter in line 2"),
        ("TICKET_COMMENT", "value {{ shout() }}", "TICKET_COMMENT: unknown names: `shout`"),
        ("TICKET_CUSTOM_FIELDS", "value", "TICKET_CUSTOM_FIELDS is not a JSON object"),
        ("TICKET_CUSTOM_FIELDS", r#"["value"]"#, "TICKET_CUSTOM_FIELDS is not a JSON object"),
        ("TICKET_CUSTOM_FIELDS", r#"{"7": null}"#, "TICKET_CUSTOM_FIELDS: field 7: its value must be"),
        (
            "TICKET_CUSTOM_FIELDS",
            r#"{"7": {"value": 1}}"#,
            "TICKET_CUSTOM_FIELDS: field 7: its value must be",
        ),
        (
            "TICKET_CUSTOM_FIELDS",
            r#"{"7": ["value", 1]}"#,
            "TICKET_CUSTOM_FIELDS: field 7: a list can only hold",
        ),
        (
            "TICKET_CUSTOM_FIELDS",
            r#"{"7": ["{{ value"]}"#,
            "TICKET_CUSTOM_FIELDS: field 7: syntax error in line 1",
        ),
        (
            "TICKET_CUSTOM_FIELDS",
            r#"{"7": "value {{ a.b }}"}"#,
            "TICKET_CUSTOM_FIELDS: field 7: unknown names: `a.b`",
        ),
        (
            "TICKET_CUSTOM_FIELDS",
            r#"{"color": "value"}"#,
            "TICKET_CUSTOM_FIELDS: a key is not the number of a field: color",
        ),
        ("ZENDESK_UPDATE_BUDGET_PERCENT", "0", "ZENDESK_UPDATE_BUDGET_PERCENT is not a number from 1 to 100"),
    ] {
        let report = refused(&[(name, value)]);
        assert!(report.starts_with("the configuration has 1 problem:"), "{report}");
        assert!(report.contains(&format!("\n  - {problem}")), "{problem}: {report}");
        assert!(!report.contains("value {{"), "a value is in: {report}");
    }
    let together = refused(&[
        ("TICKET_SUBJECT", "{{ a }}"),
        ("TICKET_CUSTOM_FIELDS", r#"{"7": null, "8": "{{ b }}"}"#),
        ("PORT", "x"),
    ]);
    assert!(together.starts_with("the configuration has 4 problems:"), "{together}");
}
