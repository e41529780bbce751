//! Misspelt names of variables. Without a warning a misspelt setting would silently do nothing.

/// The known names.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// All except those of routes.
    pub variables: Vec<String>,
    /// The parts of names that follow a route: `TICKET_PRIORITY` of `ROUTE_VIP_TICKET_PRIORITY`.
    pub route_ends: Vec<String>,
    /// A name with one of these prefixes is meant for casebridge.
    pub prefixes: Vec<&'static str>,
}

impl Names {
    /// Whether the end of a route's variable belongs to a group of settings: `TICKET_…`.
    pub fn is_group(&self, end: &str) -> bool {
        let group = end.split_once('_').map_or("", |(group, _)| group);
        !group.is_empty()
            && self.route_ends.iter().any(|known| known.split_once('_').is_some_and(|known| known.0 == group))
    }
}

/// The prefix of the variables of routes.
pub const ROUTE_PREFIX: &str = "ROUTE_";
/// Prefixes of the variables that hosts set.
const HOSTS: [&str; 4] = ["HEROKU_", "RENDER_", "RAILWAY_", "FLY_"];
/// Shorter names are too near to too many others.
const LETTERS: usize = 6;
const NEAR: usize = 2;

/// Returns a warning if a name is not ours but looks like one of ours.
pub fn of(name: &str, names: &Names) -> Option<String> {
    let known = &names.variables;
    let is_excepted = HOSTS.iter().any(|host| name.starts_with(host)) || name.starts_with(ROUTE_PREFIX);
    if is_excepted || known.iter().any(|known| known == name) {
        return None;
    }
    let is_near = |known: &String| {
        name.len().min(known.len()) >= LETTERS && distance(&name.to_uppercase(), known) <= NEAR
    };
    let is_meant = names.prefixes.iter().any(|ours| name.starts_with(ours)) || known.iter().any(is_near);
    is_meant.then(|| unknown(name, meant(name, known)))
}

/// Does the same for the part of a name that follows the route: `TICKET_PRIO` of `ROUTE_VIP_TICKET_PRIO`.
pub fn of_route(name: &str, end: &str, names: &Names) -> Option<String> {
    let ends = &names.route_ends;
    let is_known = ends.iter().any(|known| known == end);
    (!is_known).then(|| {
        let meant = meant(end, ends).map(|meant| format!("{}{name}_{meant}", ROUTE_PREFIX));
        unknown(&format!("{}{name}_{end}", ROUTE_PREFIX), meant)
    })
}

/// Guesses the route setting that a name was meant to be; `rest` follows `ROUTE_`: `VIP_2_LABEL`,
/// `VIP-2_LABEL`, `VIP_LABLE`. `None`: the variable may belong to another program.
pub fn route_meant(rest: &str, names: &Names) -> Option<String> {
    let ends = &names.route_ends;
    let is_end = |end: &&String| {
        rest.strip_suffix(end.as_str()).is_some_and(|name| name.is_empty() || name.ends_with('_'))
    };
    let (name, end) = match ends.iter().filter(is_end).max_by_key(|end| end.len()) {
        Some(end) => (&rest[..rest.len() - end.len()], end),
        None => {
            let (name, end) = rest.rsplit_once('_')?;
            // One letter of five: two would make another name.
            (name, ends.iter().find(|known| distance(end, known) <= 1)?)
        }
    };
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    Some(format!("{}{}_{end}", ROUTE_PREFIX, if name.is_empty() { "NAME" } else { &name }))
}

fn unknown(name: &str, meant: Option<String>) -> String {
    match meant {
        Some(meant) => format!("{name} is not a casebridge setting: did you mean {meant}?"),
        None => format!("{name} is not a casebridge setting: `casebridge settings` lists them"),
    }
}

/// Returns the nearest name, unless it is too far away.
fn meant(name: &str, known: &[String]) -> Option<String> {
    let upper = name.to_uppercase();
    let nearest = known.iter().min_by_key(|known| distance(&upper, known))?;
    let is_close = distance(&upper, nearest) <= NEAR.max(upper.len() / 4);
    let longer = || known.iter().find(|known| known.starts_with(&upper));
    Some(nearest).filter(|_| is_close).or_else(longer).cloned()
}

fn distance(one: &str, other: &str) -> usize {
    strsim::osa_distance(one, other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn a_name_that_looks_like_a_setting_gets_a_suggestion() {
        for (name, meant) in [
            ("RETENTION_DAY", Some("RETENTION_DAYS")),
            ("DATABSE_URL", Some("DATABASE_URL")),
            ("DATABASE_URI", Some("DATABASE_URL")),
            ("ADMIN_TOKN", Some("ADMIN_TOKEN")),
            ("LOG_FROMAT", Some("LOG_FORMAT")),
            ("PUBLIC_ULR", Some("PUBLIC_URL")),
            ("SPREDFAST_LABEL", Some("SPREDFAST_LABEL_NAME")),
            ("SPREADFAST_API_TOKEN", Some("SPREDFAST_API_TOKEN")),
            ("spredfast_api_token", Some("SPREDFAST_API_TOKEN")),
            ("ZENDESK_TOKEN", None),
            ("ZENDESK_OAUTH_SECRET", None),
            ("TICKET_PRIO", Some("TICKET_PRIORITY")),
            ("TICKET_GROUP", Some("TICKET_GROUP_ID")),
        ] {
            let warning = of(name, &config::names()).unwrap_or_default();
            assert!(
                warning.starts_with(&format!("{name} is not a casebridge setting: ")),
                "{name}: {warning}"
            );
            match meant {
                Some(meant) => assert!(warning.ends_with(&format!("did you mean {meant}?")), "{warning}"),
                None => assert!(warning.ends_with("lists them"), "{warning}"),
            }
        }
        for name in [
            "PATH",
            "HOME",
            "HOSTNAME",
            "PORTS",
            "DYNOS",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "RUST_BACKTRACE",
            "LANG",
            "DATABASE_POOL_SIZE",
            "LOG_LEVEL",
            "LISTEN_FDS",
            "LISTEN_PID",
            "HEROKU_APP_NAMES",
            "HEROKU_APP_ID",
            "RENDER_EXTERNAL_URLS",
            "FLY_APP_NAMES",
            "RAILWAY_PUBLIC_DOMAINS",
            "PUBLIC_IP",
            "ADMIN_EMAIL",
            "SSL_CERT_FILE",
            "KUBERNETES_PORT",
            "SPREDFAST_API_TOKEN",
            "TICKET_TYPE",
            "ROUTE_SERVICE_HOST",
        ] {
            assert_eq!(of(name, &config::names()), None);
        }
    }

    #[test]
    fn a_wrong_route_name_differs_from_names_of_other_programs() {
        for (rest, meant) in [
            ("VIP_2_LABEL", Some("ROUTE_VIP2_LABEL")),
            ("VIP-2_LABEL", Some("ROUTE_VIP2_LABEL")),
            ("VIP_LABLE", Some("ROUTE_VIP_LABEL")),
            ("VIP_QUERRY", Some("ROUTE_VIP_QUERY")),
            ("VIP_2_TICKET_TAGS", Some("ROUTE_VIP2_TICKET_TAGS")),
            ("LABEL", Some("ROUTE_NAME_LABEL")),
            ("_LABEL", Some("ROUTE_NAME_LABEL")),
            ("SERVICE_HOST", None),
            ("PORT_8080_TCP", None),
            ("LOG_LEVEL", None),
            ("TABLE", None),
        ] {
            assert_eq!(route_meant(rest, &config::names()).as_deref(), meant, "{rest}");
        }
    }
}
