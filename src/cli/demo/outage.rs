//! The story of `--story outage`: Zendesk breaks down while it creates a ticket, and recovers.

use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use casebridge_sandbox::khoros::label_event;
use casebridge_sandbox::zendesk::Fault;

use super::Stage;
use super::screen::{say, wrapped};
use casebridge::text::printable;

const POLL: Duration = Duration::from_millis(100);
/// Posts that get the label.
const POSTS: usize = 3;

impl Stage {
    pub(super) async fn break_down_and_recover(&mut self) -> anyhow::Result<()> {
        self.zendesk.queue([Fault::StatusAfterCreate(502)]);
        let status = self.label(&post(1)).await?;
        say(&format!("2. label applied to a post: casebridge answered {status}"))?;
        self.zendesk.wait_until(|model| !model.tickets.is_empty()).await;
        self.zendesk.model().outage = Some(Fault::Status(503));
        let first = self.zendesk.model().tickets[0]["id"].clone();
        say(&format!("3. Zendesk breaks down: it created ticket {first}, but its answer was lost"))?;
        for number in 2..=POSTS {
            let status = self.label(&post(number)).await?;
            say(&format!("   label applied to another post: stored, casebridge answered {status}"))?;
        }
        let status = self.status(|status| status["destinations"]["zendesk"]["state"] == "paused").await?;
        let reason = printable(status["destinations"]["zendesk"]["reason"].as_str().unwrap_or_default());
        say(&wrapped(&format!("4. casebridge pauses Zendesk ({reason})"), "   "))?;
        say(&format!("   {} deliveries wait, none is lost", status["deliveries"]["waiting"]))?;

        self.zendesk.model().outage = None;
        say("5. Zendesk works again")?;
        self.status(|status| status["deliveries"]["waiting"] == 0).await?;
        let tickets = self.zendesk.model().tickets.clone();
        for ticket in &tickets {
            let what =
                if ticket["id"] == first { "found by its external_id, not created again" } else { "created" };
            say(&format!("   ticket {}: {what}", ticket["id"]))?;
        }
        self.shown = self.zendesk.model().audits.len();
        for companion in &mut self.companions {
            for _ in 0..POSTS {
                say(&companion.next_line().await)?;
            }
        }
        say(&format!("6. {POSTS} labels, {} tickets: nothing lost, nothing duplicated", tickets.len()))?;
        Ok(())
    }

    /// Waits until `GET /status` shows a condition.
    async fn status(&self, is_met: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let url = format!("{}/status", self.casebridge);
        loop {
            let response = self.http.get(&url).bearer_auth(&self.admin_token).send().await?;
            let status: Value = response.json().await?;
            if is_met(&status) {
                return Ok(status);
            }
            sleep(POLL).await;
        }
    }
}

fn post(number: usize) -> String {
    label_event(&number.to_string(), &format!("My parcel never came ({number})"), None)
}
