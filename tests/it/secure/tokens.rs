//! Access tokens in secure mode: REST and the socket handshake refuse invalid and expired tokens.

use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    answer::Answer,
    databases::{Database, Kind},
    harness::{TestServer, machine_time},
    people::{ENDED, NO_TOKEN, NOBODY, SECURE},
    person::Person,
    wire::{Shown, Socket},
};

const KEY: &str = "a key of many bytes that the tests know";

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digits = |chunk: &[u8]| {
        let bits = chunk
            .iter()
            .chain(&[0; 2])
            .take(3)
            .fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        (0..=chunk.len())
            .map(|n| char::from(DIGITS[bits >> (18 - 6 * n) & 63]))
            .collect::<String>()
    };
    bytes.chunks(3).map(digits).collect()
}

/// Returns a token with this header, which may be anything, and these claims, signed with `key` by
/// `algorithm`.
fn token(header: &Value, claims: &Value, key: &str, algorithm: Algorithm) -> String {
    let signed = [header, claims]
        .map(|part| base64url(part.to_string().as_bytes()))
        .join(".");
    let signature = crypto::sign(
        signed.as_bytes(),
        &EncodingKey::from_secret(key.as_bytes()),
        algorithm,
    )
    .unwrap();
    format!("{signed}.{signature}")
}

fn header(algorithm: &str) -> Value {
    json!({ "alg": algorithm, "typ": "JWT" })
}

impl TestServer {
    /// Checks that REST and the socket handshake refuse this token with this message.
    async fn turns_away(&self, token: &str, message: &str) {
        let bearer = format!("Bearer {token}");
        for (method, path) in [
            (Method::GET, "/room"),
            (Method::GET, "/users"),
            (Method::POST, "/logout"),
            (Method::DELETE, "/delete/room/x"),
        ] {
            Answer::of(self.request(method, path).header("authorization", &bearer))
                .await
                .refused(401, message);
        }
        for shown in [
            Shown::Auth(json!({ "token": token })),
            Shown::Query(4, token),
            Shown::Query(3, token),
            Shown::Header(&bearer),
        ] {
            assert_eq!(
                Socket::with(&self.base, &shown).await.err().as_deref(),
                Some(message),
                "{token}"
            );
        }
    }
}

fn hs256(claims: &Value) -> String {
    token(&header("HS256"), claims, KEY, Algorithm::HS256)
}

/// Returns claims with which a token of the user is accepted, so that others are refused because of
/// their defects.
async fn accepted_claims(user: &Person) -> Value {
    let sessions = user.get("/sessions").await.ok();
    let now = machine_time() / 1_000;
    let claims = json!({
        "userId": user.id, "userType": "consumer", "sessionId": sessions["sessions"][0]["_id"], "iat": now, "exp": now + 900,
    });
    user.get("/room").await.ok();
    let accepted = Person {
        token: hs256(&claims),
        ..user.clone()
    };
    accepted.get("/room").await.ok();
    claims
}

#[tokio::test]
async fn tokens_without_a_signature_are_refused() {
    let server = TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_TOKEN_SECRET", KEY)]).await;
    let alice = server.member("alice").await;
    let claims = accepted_claims(&alice).await;
    let right = hs256(&claims);
    let (signed, signature) = right.rsplit_once('.').unwrap();
    let (_, body) = signed.split_once('.').unwrap();
    let unsigned = |algorithm: &str| {
        format!(
            "{}.{body}.",
            base64url(header(algorithm).to_string().as_bytes())
        )
    };
    for (token, message) in [
        (unsigned("none"), "jwt signature is required"),
        (unsigned("HS256"), "jwt signature is required"),
        (format!("{}{signature}", unsigned("none")), "invalid token"),
        (format!("{}{signature}", unsigned("None")), "invalid token"),
    ] {
        server.turns_away(&token, message).await;
    }
}

#[tokio::test]
async fn tokens_of_other_algorithms_are_refused() {
    let server = TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_TOKEN_SECRET", KEY)]).await;
    let alice = server.member("alice").await;
    let claims = accepted_claims(&alice).await;
    for (token, message) in [
        (
            token(&header("HS512"), &claims, KEY, Algorithm::HS512),
            "invalid algorithm",
        ),
        (
            token(&header("HS384"), &claims, KEY, Algorithm::HS384),
            "invalid algorithm",
        ),
        (
            token(&header("RS256"), &claims, KEY, Algorithm::HS256),
            "invalid algorithm",
        ),
        (
            token(&header("ES256"), &claims, KEY, Algorithm::HS256),
            "invalid algorithm",
        ),
    ] {
        server.turns_away(&token, message).await;
    }
}

#[tokio::test]
async fn tokens_with_another_signature_are_refused() {
    let server = TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_TOKEN_SECRET", KEY)]).await;
    let [alice, bob] = [server.member("alice").await, server.member("bob").await];
    let claims = accepted_claims(&alice).await;
    let right = hs256(&claims);
    let (signed, signature) = right.rsplit_once('.').unwrap();
    let (head, body) = signed.split_once('.').unwrap();
    let (_, of_bob) = bob.token.split_once('.').unwrap();
    for (token, message) in [
        (
            token(
                &header("HS256"),
                &claims,
                "another key, of just as many bytes as it",
                Algorithm::HS256,
            ),
            "invalid signature",
        ),
        (
            token(&header("HS256"), &claims, KEY, Algorithm::HS512),
            "invalid signature",
        ),
        (
            token(
                &json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": "AA" } }),
                &claims,
                "",
                Algorithm::HS256,
            ),
            "invalid signature",
        ),
        (format!("{head}.{body}A.{signature}"), "invalid signature"),
        (
            format!(
                "{head}.{}",
                of_bob.replace(of_bob.split_once('.').unwrap().1, signature)
            ),
            "invalid signature",
        ),
    ] {
        server.turns_away(&token, message).await;
    }
}

#[tokio::test]
async fn tokens_of_another_form_are_refused() {
    let server = TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_TOKEN_SECRET", KEY)]).await;
    let alice = server.member("alice").await;
    let claims = accepted_claims(&alice).await;
    for (token, message) in [
        (
            token(&json!({}), &claims, KEY, Algorithm::HS256),
            "invalid token",
        ),
        ("nonsense".into(), "jwt malformed"),
        ("a.b.c".into(), "invalid token"),
        (alice.refresh_token.clone(), "jwt malformed"),
    ] {
        server.turns_away(&token, message).await;
    }
    // A header with an extension of the standard that the server does not know.
    for header in [
        json!({ "alg": "HS256", "crit": ["exp"] }),
        json!({ "alg": "HS256", "crit": ["x"], "x": true }),
        json!({ "alg": "HS256", "crit": [] }),
        json!({ "alg": "HS256", "crit": null }),
        json!({ "alg": "HS256", "crit": ["b64"], "b64": false }),
        json!({ "alg": "HS256", "b64": false }),
    ] {
        let extended = token(&header, &claims, KEY, Algorithm::HS256);
        server.turns_away(&extended, "jwt malformed").await;
    }
}

#[tokio::test]
async fn claims_that_do_not_hold_are_refused_with_the_reason() {
    let server = TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_TOKEN_SECRET", KEY)]).await;
    let [alice, bob] = [server.member("alice").await, server.member("bob").await];
    let claims = accepted_claims(&alice).await;
    let with = |field: &str, value: Value| {
        let mut claims = claims.clone();
        claims[field] = value;
        hs256(&claims)
    };
    let now = machine_time() / 1_000;
    for (token, message) in [
        (with("exp", json!(now - 1)), "jwt expired"),
        (with("exp", json!("never")), "invalid token"),
        (with("userId", json!(NOBODY)), "No user with this id found"),
        (with("userId", json!({ "$gt": "" })), "invalid token"),
        (with("userId", json!(bob.id)), ENDED),
        (with("sessionId", json!(NOBODY)), ENDED),
        (with("sessionId", json!(null)), "invalid token"),
        (with("sessionId", json!({ "$gt": "" })), "invalid token"),
        (with("sessionId", json!("")), "invalid token"),
    ] {
        server.turns_away(&token, message).await;
    }
}

#[tokio::test]
async fn an_access_token_expires_and_the_refresh_token_gives_another() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let alice = server.member("alice").await;
    server.turn_clock(898_000);
    alice.get("/room").await.ok();
    server.turn_clock(2_000);
    server.turns_away(&alice.token, "jwt expired").await;
    let alice = alice.with(&alice.refreshes().await.ok());
    alice.get("/room").await.ok();
    Socket::signed_in(&alice).await;
}

#[tokio::test]
async fn tokens_are_refused_after_a_logout_or_deletion() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let [alice, bob] = [server.member("alice").await, server.member("bob").await];
    for person in [&alice, &bob] {
        person.get("/room").await.ok();
    }
    alice.calls(Method::POST, "/logout", json!({})).await.ok();
    server.turns_away(&alice.token, ENDED).await;
    bob.calls(Method::DELETE, &format!("/users/{}", bob.id), json!({}))
        .await
        .ok();
    server
        .turns_away(&bob.token, "No user with this id found")
        .await;
}

#[tokio::test]
async fn tokens_of_open_mode_are_refused() {
    let database = Database::new(Kind::Sqlite).await;
    let mut open = TestServer::on(database.again(), &[("CAUSERIE_TOKEN_SECRET", KEY)]).await;
    let (alice, bob, room) = open.two_in_a_room().await;
    alice.posts(&room, "hello").await.ok();
    open.stop().await;
    let secure = TestServer::on(
        database,
        &[&SECURE[..], &[("CAUSERIE_TOKEN_SECRET", KEY)]].concat(),
    )
    .await;
    for token in [&alice.token, &bob.token] {
        secure.turns_away(token, "invalid token").await;
    }
    // The login of open mode does not issue a token either.
    secure
        .post(&format!("/login/{}", alice.id), &json!({}))
        .await
        .invalid(json!({ "password": "please provide a string" }));
    for password in ["undefined", "null", "x"] {
        let login = json!({ "password": password });
        secure
            .post(&format!("/login/{}", alice.id), &login)
            .await
            .refused(401, "Wrong username or password");
    }
}

#[tokio::test]
async fn a_missing_token_is_reported() {
    let server = TestServer::secure(Kind::Sqlite).await;
    for shown in [
        Shown::Nowhere,
        Shown::Auth(json!({})),
        Shown::Auth(json!({ "token": null })),
        Shown::Auth(json!({ "token": { "$gt": "" } })),
        Shown::Auth(json!([])),
        Shown::Header(""),
    ] {
        assert_eq!(
            Socket::with(&server.base, &shown).await.err().as_deref(),
            Some(NO_TOKEN)
        );
    }
    for shown in [
        Shown::Auth(json!({ "token": "" })),
        Shown::Query(4, ""),
        Shown::Query(3, ""),
        Shown::Header("Bearer"),
    ] {
        assert_eq!(
            Socket::with(&server.base, &shown).await.err().as_deref(),
            Some("jwt must be provided")
        );
    }
}
