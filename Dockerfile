# Two stages on the same Debian release, so that the binary finds the C library that it was built for.

FROM rust:1.95-slim-bookworm AS builder
# This image brings gcc and the C library's headers, which the bundled SQLite and the TLS library
# need. Nothing else is needed to build.
WORKDIR /build
# All that the binary is made of. `src` embeds `migrations`, and the demo one of the fixtures.
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY sandbox sandbox
COPY migrations migrations
COPY tests/fixtures tests/fixtures
RUN cargo build --release --locked --bin casebridge

FROM debian:bookworm-slim
# Without CA certificates no HTTPS client can be made, and the service does not start.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
# The folder for SQLite. Mount a volume here, or what was received is gone with the container.
# A named volume takes over this owner; a folder of the host has to be given to it (chown 10001:10001).
RUN install -d -o 10001 -g 10001 /data
COPY --from=builder /build/target/release/casebridge /usr/local/bin/casebridge
# Defaults only. On Heroku the Postgres add-on sets DATABASE_URL and the platform sets PORT.
ENV DATABASE_URL=sqlite:///data/casebridge.db \
    PORT=8080
# For documentation: the port is what PORT says.
EXPOSE 8080
# A number, so that a cluster can see that it is not root. Heroku runs the image as a user of its own
# choice instead, and needs no writable folder.
USER 10001:10001
WORKDIR /data
# The process answers; a database that does not is no reason to restart it.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["casebridge", "health"]
# Exec form: no shell stands between the host's SIGTERM and the process.
CMD ["casebridge", "serve"]
