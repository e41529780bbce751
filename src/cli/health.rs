//! `casebridge health`.

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{bail, ensure};

use casebridge::config::General;
use casebridge::connect;

/// A container's health check is over after 30 s by default.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// Asks the service on this machine whether it answers. Whether its database does is left to `/readyz`: a restart
/// would not help there.
pub async fn health(general: &General) -> anyhow::Result<()> {
    let url = url(general, "/healthz")?;
    let request = connect::http_client(true)?.get(&url).timeout(LIMIT);
    match request.send().await {
        Ok(response) if response.status().is_success() => writeln!(std::io::stdout(), "ok")?,
        Ok(response) => bail!("{url} answered {}", response.status().as_u16()),
        Err(error) => bail!("{url}: {}", connect::reason(&error)),
    }
    Ok(())
}

/// The address of a page of the service on this machine.
pub(super) fn url(general: &General, path: &str) -> anyhow::Result<String> {
    ensure!(general.port != 0, "PORT is 0, so the port of the service is not known");
    let port = general.port;
    Ok(match general.listen {
        // The name of either family.
        address if address.is_unspecified() => format!("http://localhost:{port}{path}"),
        IpAddr::V4(address) => format!("http://{address}:{port}{path}"),
        IpAddr::V6(address) => format!("http://[{address}]:{port}{path}"),
    })
}
