-- How many deliveries were ever received, and how many are in each state now, kept by triggers. `received` only grows,
-- so a delivery that is deleted leaves received - waiting - done - dead greater than 0. Triggers and table differ
-- between the databases; the columns do not.
--
-- Each row is a difference, and the count is their sum: two transactions never wait for one row. The service replaces
-- many rows by their sums (`src/inbox/counts.rs`).
create table delivery_count (
    route       text   not null,
    destination text   not null,
    -- Deliveries that became done in this hour since 1970; 0 for everything else, and for what was done long ago.
    hour        bigint not null,
    received    bigint not null,
    waiting     bigint not null,
    -- Waiting, and in doubt.
    in_doubt    bigint not null,
    done        bigint not null,
    dead        bigint not null,
    -- When the last one was received.
    last_at     bigint
);

-- The schema of the migration: an operator may delete rows from a session with another search_path.
create function delivery_inserted() returns trigger language plpgsql set search_path from current as $$
begin
    insert into delivery_count (route, destination, hour, received, waiting, in_doubt, done, dead, last_at)
        select route, destination, 0, count(*), count(*) filter (where state = 'waiting'),
               count(*) filter (where state = 'waiting' and in_doubt), count(*) filter (where state = 'done'),
               count(*) filter (where state = 'dead'), max(received_at)
          from inserted group by route, destination;
    return null;
end $$;
create trigger delivery_inserted after insert on delivery
    referencing new table as inserted for each statement execute function delivery_inserted();

create function delivery_updated() returns trigger language plpgsql set search_path from current as $$
begin
    insert into delivery_count (route, destination, hour, received, waiting, in_doubt, done, dead)
    values (new.route, new.destination,
            case when new.state = 'done' and old.state <> 'done' then coalesce(new.settled_at, 0) / 3600000 else 0 end,
            0, (new.state = 'waiting')::int - (old.state = 'waiting')::int,
            (new.state = 'waiting' and new.in_doubt)::int - (old.state = 'waiting' and old.in_doubt)::int,
            (new.state = 'done')::int - (old.state = 'done')::int,
            (new.state = 'dead')::int - (old.state = 'dead')::int);
    return null;
end $$;
create trigger delivery_updated after update of state, in_doubt on delivery
    for each row when (new.route = old.route and new.destination = old.destination
                       and (new.state <> old.state or (new.state = 'waiting' and new.in_doubt <> old.in_doubt)))
    execute function delivery_updated();

-- A row that moves is received there, and no longer here.
create function delivery_moved() returns trigger language plpgsql set search_path from current as $$
begin
    insert into delivery_count (route, destination, hour, received, waiting, in_doubt, done, dead, last_at)
    values (old.route, old.destination, 0, -1, -(old.state = 'waiting')::int,
            -(old.state = 'waiting' and old.in_doubt)::int, -(old.state = 'done')::int, -(old.state = 'dead')::int,
            null),
           (new.route, new.destination, 0, 1, (new.state = 'waiting')::int,
            (new.state = 'waiting' and new.in_doubt)::int, (new.state = 'done')::int, (new.state = 'dead')::int,
            new.received_at);
    return null;
end $$;
create trigger delivery_moved after update of route, destination on delivery
    for each row when (new.route <> old.route or new.destination <> old.destination)
    execute function delivery_moved();

create function delivery_deleted() returns trigger language plpgsql set search_path from current as $$
begin
    insert into delivery_count (route, destination, hour, received, waiting, in_doubt, done, dead)
        select route, destination, 0, 0, -count(*) filter (where state = 'waiting'),
               -count(*) filter (where state = 'waiting' and in_doubt), -count(*) filter (where state = 'done'),
               -count(*) filter (where state = 'dead')
          from deleted group by route, destination;
    delete from attempt using deleted
     where attempt.identity = deleted.identity and attempt.destination = deleted.destination;
    return null;
end $$;
create trigger delivery_deleted after delete on delivery
    referencing old table as deleted for each statement execute function delivery_deleted();

create function delivery_truncated() returns trigger language plpgsql set search_path from current as $$
begin
    insert into delivery_count (route, destination, hour, received, waiting, in_doubt, done, dead)
        select route, destination, 0, 0, -sum(waiting), -sum(in_doubt), -sum(done), -sum(dead)
          from delivery_count group by route, destination;
    delete from attempt;
    return null;
end $$;
create trigger delivery_truncated after truncate on delivery
    for each statement execute function delivery_truncated();

-- Whoever erases the texts of a delivery, whether a version that does not know these columns or a person: what may
-- repeat them, or name a person, goes with them. Of a target (migration 0014), the last
-- four characters stay.
create function delivery_erased() returns trigger language plpgsql set search_path from current as $$
begin
    delete from attempt where identity = new.identity and destination = new.destination;
    new.link := null;
    new.target := case new.target when '' then '' else '…' || right(new.target, 4) end;
    return new;
end $$;
create trigger delivery_erased before update of payload on delivery
    for each row when (new.payload = '' and old.payload <> '') execute function delivery_erased();

-- Comes after the triggers: they lock the table against the inserts of another process.
insert into delivery_count (route, destination, hour, received, waiting, in_doubt, done, dead, last_at)
    select route, destination, case when state = 'done' then coalesce(settled_at, 0) / 3600000 else 0 end,
           count(*), count(*) filter (where state = 'waiting'), count(*) filter (where state = 'waiting' and in_doubt),
           count(*) filter (where state = 'done'), count(*) filter (where state = 'dead'), max(received_at)
      from delivery group by 1, 2, 3;
