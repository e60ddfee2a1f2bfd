//! Login and tokens.

use reqwest::Method;
use rstest_reuse::apply;
use serde_json::Value;

use crate::{
    each_store,
    support::{
        answer::Answer,
        databases::{Database, Kind},
        harness::TestServer,
    },
};

async fn with_header(server: &TestServer, header: &str) -> Answer {
    Answer::of(
        server
            .request(Method::GET, "/room")
            .header("authorization", header),
    )
    .await
}

#[tokio::test]
async fn a_token_is_accepted_with_any_authorization_scheme() {
    let server = TestServer::start(Kind::Sqlite).await;
    let alice = server.person("Alice").await;
    for scheme in ["Bearer", "JWT", "anything"] {
        with_header(&server, &format!("{scheme} {}", alice.token))
            .await
            .ok();
        with_header(&server, &format!("{scheme} {} more", alice.token))
            .await
            .ok();
    }
}

#[tokio::test]
async fn an_invalid_token_is_refused_with_the_reason() {
    let server = TestServer::start(Kind::Sqlite).await;
    let alice = server.person("Alice").await;
    let other = TestServer::start(Kind::Sqlite).await;
    let stranger = other.person("Stranger").await;
    server
        .get("/room")
        .await
        .refused(400, "No access token provided");
    with_header(&server, "")
        .await
        .refused(400, "No access token provided");
    let (signed, signature) = alice.token.rsplit_once('.').unwrap();
    let unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let claims = signed.split_once('.').unwrap().1;
    for (header, message) in [
        ("Bearer".to_owned(), "jwt must be provided"),
        ("Bearer ".to_owned(), "jwt must be provided"),
        (format!("Bearer  {}", alice.token), "jwt must be provided"),
        (alice.token.clone(), "jwt must be provided"),
        ("Bearer nonsense".to_owned(), "jwt malformed"),
        ("Bearer a.b.c".to_owned(), "invalid token"),
        (format!("Bearer {}", stranger.token), "invalid signature"),
        (format!("Bearer {signed}x.{signature}"), "invalid signature"),
        (format!("Bearer {signed}."), "jwt signature is required"),
        (
            format!("Bearer {unsigned}.{claims}."),
            "jwt signature is required",
        ),
    ] {
        with_header(&server, &header).await.refused(401, message);
    }
}

#[tokio::test]
async fn a_token_expires_after_the_configured_lifetime() {
    let server = TestServer::with(
        Kind::Sqlite,
        &[("CAUSERIE_TOKEN__LIFETIME_SECONDS", "3600")],
    )
    .await;
    let alice = server.person("Alice").await;
    alice.get("/room").await.ok();
    server.turn_clock(3_601_000);
    alice.get("/room").await.refused(401, "jwt expired");
}

#[apply(each_store)]
#[tokio::test]
async fn a_token_holds_user_and_type_and_survives_a_restart(kind: Kind) {
    let mut server = TestServer::start(kind).await;
    let mut alice = server.person("Alice").await;
    let claims: Value = {
        let payload = alice.token.split('.').nth(1).unwrap();
        serde_json::from_slice(&decode_base64url(payload)).unwrap()
    };
    assert_eq!(claims["userId"], *alice.id);
    assert_eq!(claims["userType"], "consumer");
    assert!(claims["iat"].is_u64());
    server.restart().await;
    alice.base.clone_from(&server.base);
    alice.get("/room").await.ok();
}

#[tokio::test]
async fn the_key_can_be_rotated_without_invalidating_tokens() {
    const KEY: &str = "CAUSERIE_TOKEN_SECRET";
    const FORMER: &str = "CAUSERIE_TOKEN__EARLIER_SECRETS";
    let [first, second, third] = ["1", "2", "3"].map(|digit| digit.repeat(32));
    let database = Database::new(Kind::Sqlite).await;
    let mut server = TestServer::on(database.again(), &[(KEY, &first)]).await;
    let mut alice = server.person("Alice").await;
    for (settings, valid) in [
        (vec![(KEY, second.clone()), (FORMER, first.clone())], true),
        (
            vec![
                (KEY, third.clone()),
                (FORMER, [second.as_str(), &first].join(",")),
            ],
            true,
        ),
        (vec![(KEY, third), (FORMER, second)], false),
    ] {
        server.stop().await;
        let settings: Vec<_> = settings
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        server = TestServer::on(database.again(), &settings).await;
        alice.base.clone_from(&server.base);
        if valid {
            alice.get("/room").await.ok();
        } else {
            alice.get("/room").await.refused(401, "invalid signature");
        }
    }
}

#[tokio::test]
async fn login_as_an_unknown_user_is_refused() {
    let server = TestServer::start(Kind::Sqlite).await;
    for id in [
        "nope",
        "0199d1f0c0de7aaa8bbbccccddddeeee",
        "..%2f..%2fetc",
        "%00",
    ] {
        Answer::of(server.request(Method::POST, &format!("/login/{id}")))
            .await
            .refused(400, "No user with this id found");
    }
}

/// Decodes base64url without padding (RFC 4648, section 5).
fn decode_base64url(text: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = text.bytes().fold(
        (Vec::new(), 0_u32, 0),
        |(mut bytes, buffer, count), letter| {
            let value = alphabet.iter().position(|known| *known == letter).unwrap();
            let (buffer, count) = ((buffer << 6) | u32::try_from(value).unwrap(), count + 6);
            if count < 8 {
                return (bytes, buffer, count);
            }
            bytes.push(u8::try_from((buffer >> (count - 8)) & 0xff).unwrap());
            (bytes, buffer, count - 8)
        },
    );
    bits.0
}
