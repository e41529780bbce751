-- What the ticket of a case has been told once this delivery is done: routes, and fingerprints of
-- texts and notes, as JSON. Each includes what the one before it told.
alter table delivery add column told text;

-- Authors that are known at a destination, so that each is looked for only once.
create table author (
    destination text   not null,
    author      text   not null,
    -- Its number there.
    reference   bigint not null,
    learnt_at   bigint not null,
    primary key (destination, author)
);
create index author_learnt on author (learnt_at);
