//! Alerts about the database, and what its clock does to alerts.

use sqlx::{Connection, Executor, PgConnection, SqliteConnection};

use super::{break_down, check_once, mend, with_receivers};
use crate::harness::{Kind, World, event, leak, on_both};
use crate::metrics;

/// The database answers and takes no writes, until this is dropped.
enum Refusing {
    Sqlite { _connection: SqliteConnection },
    Postgres { _connection: PgConnection },
}

impl Refusing {
    async fn begin(world: &World) -> Refusing {
        let url = &world.database.url;
        match world.database.kind {
            Kind::Sqlite => {
                let mut connection = SqliteConnection::connect(url).await.unwrap();
                connection.execute("begin immediate").await.unwrap();
                Refusing::Sqlite { _connection: connection }
            }
            Kind::Postgres => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                let lock = "begin; lock table readiness, alert, delivery in exclusive mode";
                connection.execute(lock).await.unwrap();
                Refusing::Postgres { _connection: connection }
            }
        }
    }
}

on_both! {
    async fn a_database_that_refuses_writes_is_an_alert(world: World) {
        let mut world = world;
        let (_destination, standard, others) = with_receivers(&mut world).await;
        let bridge = world.start().await;
        let refusing = Refusing::begin(&world).await;
        metrics::wait_for(&world, "casebridge_storage_up", 0.0).await;
        bridge.wait_for("alert_state_failed level=WARN").await;
        drop(refusing);
        bridge.wait_for("alert_notice_sent sink=slack code=storage").await;
        metrics::wait_for(&world, "casebridge_storage_up", 1.0).await;
        standard.wait_until(|model| model.events().len() == 1).await;
        assert_eq!(others.model().messages.len(), 1);
    }

    async fn an_event_that_cannot_be_stored_is_an_alert(world: World) {
        let mut world = world;
        let (_destination, _standard, others) = with_receivers(&mut world).await;
        let bridge = world.start().await;
        world.database.refuse_event("event-1").await;
        assert_eq!(world.post(event("event-1", "1")).await.status(), 503);
        bridge.wait_for("alert_notice_sent sink=slack code=storage").await;
        let text = others.model().messages[0].clone();
        assert!(text.contains("events cannot be stored") && leak(&text).is_none(), "{text}");
    }

    async fn an_alert_of_a_clock_that_ran_ahead_is_over_when_it_is(world: World) {
        let mut world = world;
        let (destination, standard, others) = with_receivers(&mut world).await;
        break_down(&destination);
        let bridge = world.start().await;
        world.notify(&event("event-1", "1")).await;
        for sink in ["slack", "pagerduty", "webhook"] {
            bridge.wait_for(&format!("alert_notice_sent sink={sink} state=firing")).await;
        }
        bridge.kill().await;
        for ahead in [
            "update alert set since = since + 864000000, seen_at = seen_at + 864000000,
                    ends_at = ends_at + 864000000, fired_at = fired_at + 864000000",
            "update alert_notice set episode = episode + 864000000, sent_at = sent_at + 864000000,
                    due_at = due_at + 864000000",
            "update run set seen_at = seen_at + 864000000",
        ] {
            world.database.execute(ahead).await;
        }
        mend(&destination);
        let bridge = world.start().await;
        bridge.wait_for("clock_corrected").await;
        for sink in ["slack", "pagerduty", "webhook"] {
            bridge.wait_for(&format!("alert_notice_sent sink={sink} state=resolved")).await;
        }
        check_once(&standard, &others);
    }
}
