-- Tickets that could not wait for their author to become a user, until the author is their requester. No
-- delivery, and not counted as one: the ticket is there.
create table late_requester (
    destination text   not null,
    ticket      text   not null,
    -- The author's external_id there.
    author      text   not null,
    -- The delivery that made the ticket: its payload says who the author is.
    identity    text   not null,
    due_at      bigint not null,
    primary key (destination, ticket)
);
create index late_requester_due on late_requester (destination, due_at);

-- The operator has said that the ticket of the case is gone for good: it is made again.
alter table delivery add column ticket_gone boolean not null default false;
