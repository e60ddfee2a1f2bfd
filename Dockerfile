# The server in a small image: docker build -t causerie .

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
# No symbols: they would be most of the image.
ENV CARGO_PROFILE_DIST_DEBUG=none CARGO_PROFILE_DIST_STRIP=symbols
# The dependencies first, around an empty program: they are built anew only when these two files change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it benches && touch src/lib.rs tests/it/main.rs && echo 'fn main() {}' | tee src/main.rs > benches/main.rs
RUN cargo build --profile dist --locked
COPY config config
COPY src src
RUN touch src/lib.rs src/main.rs && cargo build --profile dist --locked

FROM debian:bookworm-slim
RUN useradd --uid 10001 --create-home --home-dir /var/lib/causerie --shell /usr/sbin/nologin causerie
COPY --from=build /build/target/dist/causerie /usr/local/bin/
USER causerie
# With the embedded database, everything is kept in its folder data here.
WORKDIR /var/lib/causerie
VOLUME /var/lib/causerie
ENV CAUSERIE_LISTEN=0.0.0.0:3000
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["causerie", "--health"]
# Arguments go to the program: docker run causerie --help. In a container that runs, docker exec CONTAINER causerie create-user … adds a user.
ENTRYPOINT ["causerie"]
