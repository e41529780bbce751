//! Settings that people get wrong, and how the service says so.

use crate::harness::run_on_sqlite;

#[tokio::test]
async fn a_name_that_is_nearly_ours_is_warned_of() {
    run_on_sqlite(|mut world| async move {
        world.set("RETENTION_DAY", "7");
        world.set("ADMIN_TOKN", "0123456789abcdef01234567");
        world.set("HEROKU_APP_NAMES", "x");
        let bridge = world.start().await;
        bridge.wait_for_line_with(&["WARN", "RETENTION_DAY ", "did you mean RETENTION_DAYS?"]).await;
        bridge.wait_for_line_with(&["WARN", "ADMIN_TOKN ", "did you mean ADMIN_TOKEN?"]).await;
        assert!(!bridge.log().contains("HEROKU_APP_NAMES"));
    })
    .await;
}

#[tokio::test]
async fn a_wrong_name_of_a_route_stops_the_start() {
    run_on_sqlite(|mut world| async move {
        for name in ["ROUTE_VIP_2_LABEL", "ROUTE_VIP-2_LABEL", "ROUTE_VIP_LABLE"] {
            world.set(name, "VIP");
            let (status, log) = world.spawn().end_with_log().await;
            assert_eq!(status.code(), Some(2), "{log}");
            assert!(log.contains(&format!("{name} is no setting of a route")), "{log}");
            world.unset(name);
        }
    })
    .await;
}
