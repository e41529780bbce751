-- One row for each item owed to one destination: the unit of work, retry, death and replay.
-- Runs on SQLite and on PostgreSQL alike; times are milliseconds since 1970, UTC.
create table delivery (
    identity    text    not null,
    destination text    not null,
    -- The post that a ticket is about; the ticket's external_id.
    case_key    text    not null,
    route       text    not null,
    event_id    text    not null,
    event_name  text    not null,
    -- The envelope with this item alone.
    payload     text    not null,
    -- The bytes of a create, frozen before they are first sent, and which version of them it is.
    request     text,
    revision    bigint  not null default 0,
    state       text    not null check (state in ('waiting', 'done', 'dead')),
    -- Only grows: the fence. A worker may settle a row only while this is what it claimed.
    attempts    bigint  not null default 0,
    -- Drives the schedule; raised only by a failure that is the item's own.
    tries       bigint  not null default 0,
    leased      boolean not null default false,
    -- Something may have been done at the destination already: look before sending.
    in_doubt    boolean not null default false,
    -- When a waiting row may be claimed; the end of the lease while it is leased.
    due_at      bigint  not null,
    received_at bigint  not null,
    settled_at  bigint,
    -- The number of the ticket.
    reference   text,
    last_error  text,
    primary key (identity, destination)
);

-- A case is never in two hands, not even those of two instances.
create unique index delivery_in_hand on delivery (destination, case_key) where leased;
create index delivery_due on delivery (destination, due_at) where state = 'waiting';
-- For the texts that retention blanks; an insert is not in it.
create index delivery_texts on delivery (settled_at) where settled_at is not null and payload <> '';
create index delivery_listed on delivery (received_at, identity, destination);
create index delivery_dead on delivery (received_at, identity, destination) where state = 'dead';
-- For the order within a case, and for the ticket that a case already has.
create index delivery_case on delivery (destination, case_key, received_at, identity);
