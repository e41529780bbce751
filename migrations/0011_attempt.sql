-- One row for each attempt whose outcome was stored. An attempt that is missing between two others ended with its
-- process, or its lease expired. The rows are deleted when the texts of their delivery are erased.
create table attempt (
    identity    text   not null,
    destination text   not null,
    -- The fence of the attempt: `attempts` of its delivery.
    number      bigint not null,
    began_at    bigint not null,
    ended_at    bigint not null,
    outcome     text   not null,
    -- What a done delivery did, and the address of the result.
    action      text,
    url         text,
    -- Why it is not done; contains nothing of a customer's text.
    reason      text,
    -- Whether a lookup found the result of an earlier request; null without a lookup.
    found       boolean,
    -- The answer to the last request: HTTP status, the other side's id of the request, and the first 500 bytes, which
    -- can repeat a customer's text.
    status      bigint,
    request_id  text,
    response    text,
    -- When the next attempt is due.
    next_at     bigint,
    primary key (identity, destination, number)
);

-- Since when a waiting delivery may be sent: not while a limit holds it back, and not before a replay. Null: since it
-- was received, or, if it was never tried, since it is due.
alter table delivery add column waits_since bigint;
update delivery set waits_since = due_at where state = 'waiting' and last_error like 'held: %';
-- An insert is not in it: deliveries that were never tried come from `delivery_due`.
create index delivery_tried on delivery (destination, (coalesce(waits_since, received_at)))
    where state = 'waiting' and attempts > 0;
create index delivery_reference on delivery (reference) where reference is not null;
-- A fingerprint of the post's link, from the first attempt until the texts are erased.
alter table delivery add column link text;
create index delivery_link on delivery (link) where link is not null;
