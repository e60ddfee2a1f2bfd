//! Refresh tokens: one use, replays, and clocks.

use futures_util::future::join_all;
use rstest_reuse::apply;
use serde_json::json;

use crate::{
    each_store,
    support::{
        databases::{Database, Kind},
        harness::TestServer,
        people::{NO_REFRESH, SECURE, refresh},
        wire::Socket,
    },
};

#[tokio::test]
async fn a_refresh_returns_a_new_access_and_refresh_token() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let first = server.member("alice").await;
    let mut socket = Socket::signed_in(&first).await;
    let mut latest = first.clone();
    for _ in 0..3 {
        server.turn_clock(1_000);
        let answer = latest.refreshes().await.ok();
        assert_eq!(
            (&answer["expiresIn"], &answer["user"]),
            (&json!(900), &first.user)
        );
        latest = latest.with(&answer);
        latest.is_in().await;
    }
    first.is_in().await;
    assert!(socket.answers().await);
    assert_eq!(
        latest.lists_sessions().await.len(),
        1,
        "it is the same session"
    );
}

#[tokio::test]
async fn a_refresh_token_used_twice_ends_only_its_session() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let stolen = server.member("alice").await;
    let other = server.session_of("alice").await;
    let owner = stolen.with(&stolen.refreshes().await.ok());
    let owner = owner.with(&owner.refreshes().await.ok());
    let socket = Socket::signed_in(&owner).await;
    stolen.refreshes().await.refused(401, NO_REFRESH);
    socket.ends().await;
    owner.is_out().await;
    stolen.is_out().await;
    other.is_in().await;
    other.refreshes().await.ok();
}

#[tokio::test]
async fn an_invented_refresh_token_ends_no_session() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let [alice, bob] = [server.member("alice").await, server.member("bob").await];
    let (token, session) = (&alice.refresh_token, alice.session().await);
    assert_eq!(token[..32], session, "a list of sessions reveals this part");
    for guess in [
        format!("{session}{}", "0".repeat(96)),
        format!("{session}{}", &bob.refresh_token[32..]),
        format!("{}{}", &bob.refresh_token[..32], &token[32..]),
        token.to_uppercase(),
        token[..64].to_owned(),
        format!("{token}00"),
        format!(" {token}"),
        alice.token.clone(),
        session.clone(),
    ] {
        refresh(&alice, &guess).await.refused(401, NO_REFRESH);
    }
    alice.is_in().await;
    alice.refreshes().await.ok();
    bob.refreshes().await.ok();
}

/// The tabs of one browser share a refresh token, and may all use it at the same moment.
#[apply(each_store)]
#[tokio::test]
async fn concurrent_refreshes_return_the_same_token(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let alice = server.member("alice").await;
    let tabs: Vec<_> = join_all((0..8).map(|_| alice.refreshes()))
        .await
        .into_iter()
        .map(|answer| alice.with(&answer.ok()))
        .collect();
    for tab in &tabs {
        assert_eq!(tab.refresh_token, tabs[0].refresh_token);
        tab.is_in().await;
    }
    let next = tabs[3].with(&tabs[3].refreshes().await.ok());
    next.is_in().await;
    assert_eq!(next.lists_sessions().await.len(), 1);
}

#[tokio::test]
async fn the_previous_refresh_token_is_valid_for_ten_seconds() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let alice = server.member("alice").await;
    let next = alice.with(&alice.refreshes().await.ok());
    // Each repeat is less than ten seconds after the one before it, but what counts is the time
    // since the token was first used.
    for _ in 0..2 {
        server.turn_clock(4_500);
        let again = alice.with(&alice.refreshes().await.ok());
        assert_eq!(again.refresh_token, next.refresh_token);
        assert_ne!(again.token, next.token, "the access token is a fresh one");
        again.is_in().await;
    }
    server.turn_clock(1_500);
    alice.refreshes().await.refused(401, NO_REFRESH);
    next.is_out().await;
}

#[tokio::test]
async fn an_older_refresh_token_ends_the_session_at_once() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let first = server.member("alice").await;
    let second = first.with(&first.refreshes().await.ok());
    let third = second.with(&second.refreshes().await.ok());
    first.refreshes().await.refused(401, NO_REFRESH);
    third.is_out().await;
    second.is_out().await;
}

#[tokio::test]
async fn a_clock_set_back_does_not_extend_the_previous_refresh_token() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let alice = server.member("alice").await;
    let next = alice.with(&alice.refreshes().await.ok());
    server.turn_clock(-60_000);
    alice.refreshes().await.refused(401, NO_REFRESH);
    next.is_out().await;
}

/// The key that signs tokens is changed while tabs are open.
#[tokio::test]
async fn a_repeated_refresh_works_after_a_key_rotation() {
    let database = Database::new(Kind::Sqlite).await;
    let (old, new) = (
        "the key of yesterday has many bytes",
        "the key of today has as many of them",
    );
    let with = |keys: &[(&'static str, &'static str)]| [&SECURE[..], keys].concat();
    let mut server =
        TestServer::on(database.again(), &with(&[("CAUSERIE_TOKEN_SECRET", old)])).await;
    let alice = server.member("alice").await;
    let next = alice.with(&alice.refreshes().await.ok());
    server.stop().await;
    let settings = with(&[
        ("CAUSERIE_TOKEN_SECRET", new),
        ("CAUSERIE_TOKEN__EARLIER_SECRETS", old),
    ]);
    let server = TestServer::on(database, &settings).await;
    let again = refresh(&alice.person.at(&server), &alice.refresh_token)
        .await
        .ok();
    assert_eq!(again["refreshToken"], *next.refresh_token);
}

#[tokio::test]
async fn a_session_expires_without_a_refresh() {
    let settings = [
        ("CAUSERIE_SESSION__ACCESS_LIFETIME_SECONDS", "900"),
        ("CAUSERIE_SESSION__REFRESH_LIFETIME_SECONDS", "600"),
    ];
    let server = TestServer::secure_with(Kind::Sqlite, &settings).await;
    let [kept, left] = [server.member("alice").await, server.member("bob").await];
    server.turn_clock(400_000);
    let kept = kept.with(&kept.refreshes().await.ok());
    server.turn_clock(400_000);
    left.is_out().await;
    kept.is_in().await;
    kept.refreshes().await.ok();
}
