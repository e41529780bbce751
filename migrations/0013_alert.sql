-- The alerts of all processes on this database, so that neither a restart nor another process repeats a notice.
create table alert (
    code        text    not null,
    -- What it is about, such as a route; empty if there is only one.
    subject     text    not null,
    -- Which part of the service reports it, and may say that it is over.
    source      text    not null,
    severity    text    not null,
    -- The last reason, as the log has it.
    detail      text    not null,
    -- pending, firing or resolved
    state       text    not null,
    -- An event, which is over when its time has passed, and not a condition, which lasts.
    is_event    boolean not null,
    -- When it was reported first, and last.
    since       bigint  not null,
    seen_at     bigint  not null,
    -- It is over at this time if nobody reports it again.
    ends_at     bigint  not null,
    -- When it last began to fire, and when that was over.
    fired_at    bigint,
    resolved_at bigint,
    primary key (code, subject)
);

-- What each receiver of notices knows of an alert.
create table alert_notice (
    sink     text   not null,
    code     text   not null,
    subject  text   not null,
    -- The alert's `fired_at`, state and severity in the last notice.
    episode  bigint not null,
    state    text   not null,
    severity text   not null,
    sent_at  bigint not null,
    failures bigint not null,
    -- No process sends a notice before this time: one is being sent, or has failed.
    due_at   bigint not null,
    primary key (sink, code, subject)
);
