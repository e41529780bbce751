-- Tickets that casebridge made before Zendesk had a user for their author. They are not deliveries: their
-- tickets exist, and only the requester is still to be set.
create table pending_requester (
    destination text   not null,
    ticket      text   not null,
    -- The author's external_id there.
    author      text   not null,
    -- The delivery that made the ticket: its payload says who the author is.
    identity    text   not null,
    due_at      bigint not null,
    primary key (destination, ticket)
);
create index pending_requester_due on pending_requester (destination, due_at);

-- Set by `replay --new-ticket`: the operator confirmed that the case's ticket is gone; the delivery makes another.
alter table delivery add column ticket_gone boolean not null default false;
