// Those for both databases: the version, the description and the SQL of each migration, as sqlx would read them from the names of the files.
[
    (1, "delivery", include_str!("0001_delivery.sql")),
    (2, "case", include_str!("0002_case.sql")),
    (3, "subscription", include_str!("0003_subscription.sql")),
    (4, "feed health", include_str!("0004_feed_health.sql")),
    (5, "ticket", include_str!("0005_ticket.sql")),
    (6, "deployment", include_str!("0006_deployment.sql")),
    (7, "run", include_str!("0007_run.sql")),
    (8, "readiness", include_str!("0008_readiness.sql")),
    (9, "destinations", include_str!("0009_destinations.sql")),
    (10, "held", include_str!("0010_held.sql")),
    (11, "attempt", include_str!("0011_attempt.sql")),
    (13, "alert", include_str!("0013_alert.sql")),
    (14, "target", include_str!("0014_target.sql")),
]
