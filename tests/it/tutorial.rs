//! The variables of the tutorial alone: nothing more listens, connects or can be logged in to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use casebridge_sandbox::{khoros, zendesk};

use crate::harness::{BEARER, Bridge, LABEL, event, run_on_sqlite};

/// The sockets of a process: the ports that it listens on, and those that its connections lead to.
struct Sockets {
    listening: BTreeSet<u16>,
    remote: BTreeSet<u16>,
}

impl Sockets {
    /// Connections to the ports that it listens on are not its own.
    fn of(bridge: &Bridge) -> Sockets {
        let folder = format!("/proc/{}", bridge.id());
        let open = fs::read_dir(format!("{folder}/fd")).unwrap();
        let open = open.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        let inodes: BTreeSet<String> = open
            .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        let mut sockets = Vec::new();
        for table in ["tcp", "tcp6", "udp", "udp6"] {
            for line in fs::read_to_string(format!("{folder}/net/{table}")).unwrap().lines().skip(1) {
                let words: Vec<&str> = line.split_whitespace().collect();
                if inodes.contains(words[9]) {
                    sockets.push((port(words[1]), port(words[2]), words[3] == "0A"));
                }
            }
        }
        let listening = sockets.iter().filter(|(.., listens)| *listens).map(|(local, ..)| *local);
        let listening: BTreeSet<u16> = listening.collect();
        let own = sockets.iter().filter(|(local, ..)| !listening.contains(local));
        let remote = own.map(|(_, remote, _)| *remote).collect();
        Sockets { listening, remote }
    }
}

/// The port of `0100007F:1F90`.
fn port(address: &str) -> u16 {
    u16::from_str_radix(address.rsplit_once(':').unwrap().1, 16).unwrap()
}

fn port_of(url: &str) -> u16 {
    url::Url::parse(url).unwrap().port().unwrap()
}

#[tokio::test]
async fn the_variables_of_the_tutorial_alone_open_one_port_and_two_connections() {
    run_on_sqlite(|world| async move {
        let kept = |name: &str| world.vars[name].clone();
        let vars = BTreeMap::from([
            ("SPREDFAST_API_TOKEN", khoros::TOKEN.to_owned()),
            ("SPREDFAST_COMPANY_ID", kept("SPREDFAST_COMPANY_ID")),
            ("SPREDFAST_LABEL_NAME", LABEL.to_owned()),
            ("ZENDESK_API_URL", kept("ZENDESK_API_URL")),
            ("ZENDESK_USER_EMAIL", zendesk::USER_EMAIL.to_owned()),
            ("ZENDESK_API_TOKEN", zendesk::API_TOKEN.to_owned()),
            ("NOTIFICATION_BEARER_TOKEN", BEARER.to_owned()),
            ("PORT", kept("PORT")),
            ("HEROKU_APP_NAME", "acme-bridge".to_owned()),
            // These are about the test.
            ("SPREDFAST_API_URL", kept("SPREDFAST_API_URL")),
            ("DATABASE_URL", kept("DATABASE_URL")),
            ("PUBLIC_URL_PROBE_SECONDS", "0".to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
        ]);
        let bridge = world.spawn_with(&vars);
        bridge.wait_for("subscribed origin=push").await;
        world.notify(&event("event-1", "1")).await;
        bridge.wait_for("delivery_done destination=zendesk").await;

        let sockets = Sockets::of(&bridge);
        assert_eq!(sockets.listening, BTreeSet::from([port_of(&world.url(""))]));
        let (khoros, zendesk) = (port_of(&world.khoros.api_url()), port_of(&world.zendesk.url()));
        assert_eq!(sockets.remote, BTreeSet::from([khoros, zendesk]));

        for path in ["/status", "/login", "/admin", "/metrics", "/api", "/deliveries"] {
            let answer = world.http.get(world.url(path)).send().await.unwrap();
            assert_eq!(answer.status(), 404, "{path}");
        }
        let page = world.http.get(world.url("/")).send().await.unwrap();
        assert!(page.headers().get("set-cookie").is_none());
        let page = page.text().await.unwrap().to_lowercase();
        assert!(!page.contains("<form") && !page.contains("password"), "{page}");
        world.check_one_ticket_per_case().await;
    })
    .await;
}
