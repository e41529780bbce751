//! Whether a backlog uses our share of the account's requests, and no more.

use std::time::Duration;

use casebridge_sandbox::zendesk::Zendesk;

use crate::bridge::{Database, World};
use crate::drain::fill;
use crate::report::{Report, figure};

const LIMIT: u32 = 700;
const PERCENT: u32 = 60;
/// Until the burst of the start is over.
const WARM_UP: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);

pub async fn measure(report: &mut Report) {
    for others in [0, 140] {
        minute(report, others).await;
    }
}

/// `others` is what other integrations use of each minute, at its beginning.
async fn minute(report: &mut Report, others: u32) {
    let zendesk = Zendesk::start().await.unwrap();
    {
        let mut model = zendesk.model();
        (model.limit, model.used_by_others) = (LIMIT, others);
    }
    let port = zendesk.url().rsplit(':').next().unwrap().parse().unwrap();
    let mut world = World::new(Database::sqlite(), port).await;
    world.set("ZENDESK_BUDGET_PERCENT", PERCENT.to_string());
    let bridge = world.start().await;
    fill(world.port, 1000).await;
    tokio::time::sleep(WARM_UP).await;
    let requests = |zendesk: &Zendesk| {
        let model = zendesk.model();
        (model.creates, model.too_many)
    };
    let before = requests(&zendesk);
    tokio::time::sleep(MINUTE).await;
    let after = requests(&zendesk);
    let (creates, refused) = (f64::from(after.0 - before.0), f64::from(after.1 - before.1));
    let share = f64::from(LIMIT * PERCENT / 100);
    let figures = [
        figure("used", 100.0 * creates / share, "%"),
        figure("429", 100.0 * refused / (creates + refused), "%"),
    ];
    let name = format!("of our {share} a minute, {others} used by others");
    report.add("budget", &name, figures);
    bridge.stop().await;
}
