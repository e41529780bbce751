-- What the processes on one database know each other by: a random id, served at GET /healthz/instance.
create table deployment (
    one integer primary key check (one = 1),
    id text not null
);
