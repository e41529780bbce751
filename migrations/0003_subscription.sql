-- What is remembered of the subscriptions at Khoros, one row for each externalId.
create table subscription (
    external_id text   not null primary key,
    -- A fingerprint of what Khoros was last told, which is told again only once it has changed.
    declared    text,
    -- When the operator ended it; a service that was running then leaves it alone.
    ended_at    bigint
);

-- So many events were in the feed of a subscription when it was last read to its end.
create table feed (
    subscription text   not null primary key,
    length       bigint not null
);
