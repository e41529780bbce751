# Two stages on the same Debian release, so that the binary finds the C library that it was built for. The digests are
# those of lists for several processors; Dependabot renews them.

FROM rust:1.95-slim-bookworm@sha256:d7482085ff5b415f84dba5647ae71606650bdef00db7aeb69f4b3d170c3e4082 AS builder
# This image brings gcc and the C library's headers, which SQLite and the TLS library need. Nothing else is needed to
# build.
WORKDIR /build
# The dependencies first, with empty sources: this layer stays until the lock file changes.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY sandbox/Cargo.toml sandbox/Cargo.toml
RUN mkdir -p src sandbox/src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs sandbox/src/lib.rs \
    && cargo build --release --locked --bin casebridge \
    && rm -r src sandbox/src
# All that the binary is made of. `src` embeds `migrations`, and the demo one of the fixtures.
COPY build.rs ./
COPY linker linker
COPY src src
COPY sandbox sandbox
COPY migrations migrations
COPY tests/fixtures tests/fixtures
# Cargo compares times, and the copied sources may be older than the empty ones.
ARG CASEBRIDGE_COMMIT
RUN touch src/main.rs src/lib.rs sandbox/src/lib.rs \
    && CASEBRIDGE_COMMIT="$CASEBRIDGE_COMMIT" cargo build --release --locked --bin casebridge

FROM debian:bookworm-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171
ARG CASEBRIDGE_COMMIT
LABEL org.opencontainers.image.title="casebridge" \
      org.opencontainers.image.description="Turns a label in the Khoros Marketing inbox into a Zendesk ticket" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="$CASEBRIDGE_COMMIT"
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
