-- How a delivery came: pushed, or read from a feed. What the version before stores without it is taken over at each
-- start (`src/inbox/take_over.sql`).
alter table delivery add column origin text not null default 'push';
-- For a delivery that follows another one: what that one did, as JSON.
alter table delivery add column cause text;
-- What was decided when the bytes of the request were frozen; only the destination can read it.
alter table delivery add column request_memo text;
-- What the destination remembers of the case once this delivery is done. The successor of `told`, which is still
-- written for the version before.
alter table delivery add column memo text;
-- Set by `replay --new-ticket`: what this case has at the destination is gone, and this delivery begins anew. The
-- successor of `ticket_gone`.
alter table delivery add column anew boolean not null default false;

-- What sources and destinations remember, each in scopes of its own. The successor of the tables `author`,
-- `subscription`, `pending_requester` and `feed`, which stay for the version before and are no longer written.
create table memo (
    scope text   not null,
    key   text   not null,
    value text   not null,
    -- When it was written, or when it is due.
    at    bigint not null,
    primary key (scope, key)
);
create index memo_at on memo (scope, at);
insert into memo (scope, key, value, at)
    select destination || '.author', author, cast(reference as text), learnt_at from author;
insert into memo (scope, key, value, at)
    select 'khoros.declared', external_id, declared, 0 from subscription where declared is not null;
insert into memo (scope, key, value, at)
    select 'khoros.ended', external_id, cast(ended_at as text), ended_at from subscription where ended_at is not null;

-- Until when what a run has stored is taken over; empty for runs of the version before. Runs that store everything in
-- the new way need none.
alter table run add column taken_over_at bigint;
