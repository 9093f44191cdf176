# pgweir as a small image: `docker build -t pgweir .`; see docker-compose.yml for a whole cluster around it.

FROM rust:1.95-bookworm AS build
# pg_query's build reads PostgreSQL's headers with libclang.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libclang-14-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# The dependencies by themselves first: they take minutes and change rarely, so their layer is kept.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY config/rustc.sh config/release.profdata config/
RUN mkdir -p src tests/it \
 && echo 'fn main() {}' > src/main.rs \
 && touch src/lib.rs tests/tidy.rs tests/it/main.rs \
 && cargo build --release --locked --bin pgweir \
 && rm -rf src tests
COPY src src
# Cargo compares modification times, and COPY keeps the old ones.
RUN mkdir -p tests/it && touch src/main.rs src/lib.rs tests/tidy.rs tests/it/main.rs \
 && cargo build --release --locked --bin pgweir \
 && strip target/release/pgweir

# Debian without a shell and without a package manager; it has libc, libgcc and the certificates of public authorities.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/pgweir /usr/local/bin/pgweir
COPY LICENSE-MIT LICENSE-APACHE NOTICE /usr/share/doc/pgweir/
# In a container, loopback reaches nobody. The admin port has no login: publish it to those who operate pgweir only.
ENV PGWEIR_LISTEN=0.0.0.0:6432 PGWEIR_ADMIN=0.0.0.0:9632 PGWEIR_LOG_FORMAT=json
EXPOSE 6432 9632
USER nonroot
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 \
  CMD ["/usr/local/bin/pgweir", "health", "--admin", "127.0.0.1:9632"]
ENTRYPOINT ["/usr/local/bin/pgweir"]
CMD ["run"]
