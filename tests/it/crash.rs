//! Killed at the worst moments, and stopped at busy ones.

use casebridge_sandbox::zendesk::Fault;

use crate::harness::{World, event, on_both};

on_both! {
    async fn killed_between_the_answer_and_the_ticket(world: World) {
        world.zendesk.queue([Fault::Hang]);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        world.zendesk.wait_until(|model| model.creates == 1).await;
        bridge.kill().await;
        assert!(world.zendesk.model().tickets.is_empty());

        let bridge = world.start().await;
        bridge.wait_for("delivery_done").await;
        world.check_one_ticket_per_case().await;
    }

    async fn killed_between_the_ticket_and_its_record(world: World) {
        world.zendesk.queue([Fault::HangAfterCreate]);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        world.tickets(1).await;
        bridge.kill().await;
        assert_eq!(world.list().await[0]["state"], "waiting");

        let bridge = world.start().await;
        bridge.wait_for("delivery_done").await;
        // It was looked up: Zendesk was not even asked to create again.
        assert_eq!(world.zendesk.model().creates, 1);
        world.check_one_ticket_per_case().await;
    }

    async fn killed_before_anything_was_sent(world: World) {
        world.zendesk.stop();
        let bridge = world.start().await;
        for post in 0..20 {
            world.notify(&event(&format!("event-{post}"), &post.to_string())).await;
        }
        bridge.wait_for("destination_paused").await;
        bridge.kill().await;

        world.zendesk.restart().await.unwrap();
        let bridge = world.start().await;
        bridge.wait_for_nth("delivery_done", 20).await;
        world.check_one_ticket_per_case().await;
    }

    async fn a_stop_finishes_the_work_in_progress(world: World) {
        world.zendesk.queue([Fault::Hang]);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        world.zendesk.wait_until(|model| model.creates == 1).await;
        assert_eq!(bridge.stop().await.code(), Some(0));
        // The attempt was waited for, so its end is on record.
        let list = world.list().await;
        assert!(list[0]["reason"].as_str().unwrap().contains("did not answer in time"), "{list:?}");

        let bridge = world.start().await;
        bridge.wait_for("delivery_done").await;
        world.check_one_ticket_per_case().await;
    }
}
