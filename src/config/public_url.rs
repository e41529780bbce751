//! The public address: `PUBLIC_URL`, or the variables in which platforms give an app its address.

use url::Url;

use super::Variables;
use crate::env::{Reader, parse};

/// Returns the command or line that sets the public address.
pub(super) fn remedy(on_heroku: bool) -> &'static str {
    if on_heroku {
        "heroku config:set -a YOUR-APP PUBLIC_URL=$(heroku info -s -a YOUR-APP | sed -n s/^web_url=//p)"
    } else {
        "PUBLIC_URL=https://… (on Heroku: heroku config:set PUBLIC_URL=https://…)"
    }
}

/// Returns the address and the variable that it came from. `HEROKU_APP_NAME` comes last: since 2023-06-14
/// the host of a new app has a random suffix that the name lacks.
pub(super) fn read(reader: &mut Reader, variables: &Variables) -> (Option<Url>, &'static str) {
    let candidates = [
        ("PUBLIC_URL", variables.public_url(), ""),
        ("HEROKU_APP_DEFAULT_DOMAIN_NAME", variables.heroku_app_default_domain_name(), ""),
        ("RENDER_EXTERNAL_URL", variables.render_external_url(), ""),
        ("RAILWAY_PUBLIC_DOMAIN", variables.railway_public_domain(), ""),
        ("FLY_APP_NAME", variables.fly_app_name(), ".fly.dev"),
        ("HEROKU_APP_NAME", variables.heroku_app_name(), ".herokuapp.com"),
    ];
    let found = candidates.into_iter().find(|(_, setting, _)| setting.value.is_some());
    let Some((name, setting, domain)) = found else { return (None, "PUBLIC_URL") };
    if name == "HEROKU_APP_NAME" {
        reader.warnings.push(
            "the public address is guessed from HEROKU_APP_NAME, which is right only for apps \
             created before 2023-06-14: set PUBLIC_URL to what `heroku info -s` shows as web_url"
                .to_owned(),
        );
    }
    let url = reader.optional(setting, |text| match text.contains(['.', '/']) {
        true => parse::api_url(text),
        false => parse::api_url(&format!("{text}{domain}")),
    });
    (url, name)
}
