//! Sessions in secure mode: how they begin, continue and end, and that a session that has ended is
//! refused everywhere.

use futures_util::future::{join, join_all};
use reqwest::Method;
use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    databases::{Database, Kind},
    each_store,
    harness::TestServer,
    people::{Answer, ENDED, Member, NO_REFRESH, PASSWORD, SECURE, refresh},
    wire::Socket,
};

const WRONG: &str = "Wrong username or password";
const NEW_PASSWORD: &str = "short red kettle";

impl Member {
    async fn logs_out(&self, body: Value) -> u64 {
        self.calls(Method::POST, "/logout", body).await.ok()["endedSessionsCount"]
            .as_u64()
            .unwrap()
    }

    async fn lists_sessions(&self) -> Vec<Value> {
        self.get("/sessions").await.ok()["sessions"]
            .as_array()
            .unwrap()
            .clone()
    }

    async fn ends_session(&self, id: &str) -> Answer {
        self.calls(Method::DELETE, &format!("/sessions/{id}"), json!({}))
            .await
    }

    /// Returns the id of the session that makes the request.
    async fn session(&self) -> String {
        let sessions = self.lists_sessions().await;
        sessions
            .iter()
            .find(|session| session["current"] == true)
            .unwrap()["_id"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    async fn changes_own_password(&self, old: &str, new: &str) -> Answer {
        let body = json!({ "oldPassword": old, "newPassword": new });
        self.calls(Method::PUT, &format!("/users/{}/password", self.id), body)
            .await
    }

    /// Checks that the session is still valid.
    async fn is_in(&self) {
        self.get("/room").await.ok();
    }
}

#[apply(each_store)]
#[tokio::test]
async fn a_user_logs_in_by_username_or_by_id_with_the_password(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let alice = server.member("alice").await;
    let by_id = format!("/login/{}", alice.id);
    for login in [
        server.enters("ALICE", PASSWORD).await.ok(),
        server
            .post(&by_id, &json!({ "password": PASSWORD }))
            .await
            .ok(),
    ] {
        assert_eq!(
            (&login["expiresIn"], &login["user"]),
            (&json!(900), &alice.user)
        );
        alice.with(&login).is_in().await;
        alice.with(&login).refreshes().await.ok();
    }
    let wrong = json!({ "success": false, "message": WRONG });
    for (path, body) in [
        (
            "/login",
            json!({ "username": "alice", "password": "Tall green kettle" }),
        ),
        (
            "/login",
            json!({ "username": "nobody", "password": PASSWORD }),
        ),
        (
            "/login",
            json!({ "username": alice.id, "password": PASSWORD }),
        ),
        (&*by_id, json!({ "password": "Tall green kettle" })),
        (
            "/login/0199d1f0c0de7aaa8bbbccccddddeeee",
            json!({ "password": PASSWORD }),
        ),
        ("/login/alice", json!({ "password": PASSWORD })),
    ] {
        assert_eq!(
            server.post(path, &body).await.refused(401, WRONG),
            wrong,
            "{path} {body}"
        );
    }
    server
        .post(&by_id, &json!({}))
        .await
        .invalid(json!({ "password": "please provide a string" }));
    Answer::of(server.request(Method::POST, &by_id))
        .await
        .invalid(json!({ "password": "please provide a string" }));
}

#[apply(each_store)]
#[tokio::test]
async fn a_refresh_token_gives_the_next_of_both(kind: Kind) {
    let server = TestServer::secure(kind).await;
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

#[apply(each_store)]
#[tokio::test]
async fn a_refresh_token_that_is_used_twice_ends_its_session_and_no_other(kind: Kind) {
    let server = TestServer::secure(kind).await;
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

#[apply(each_store)]
#[tokio::test]
async fn a_refresh_token_that_was_made_up_ends_nothing(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let [alice, bob] = [server.member("alice").await, server.member("bob").await];
    let (token, session) = (&alice.refresh_token, alice.session().await);
    assert_eq!(
        token[..32],
        session,
        "whoever sees a list of sessions knows so much"
    );
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
async fn tabs_that_refresh_at_once_all_go_on_with_the_same_token(kind: Kind) {
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

#[apply(each_store)]
#[tokio::test]
async fn a_former_refresh_token_is_good_for_ten_seconds_and_no_longer(kind: Kind) {
    let server = TestServer::secure(kind).await;
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

#[apply(each_store)]
#[tokio::test]
async fn an_older_refresh_token_ends_the_session_at_once(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let first = server.member("alice").await;
    let second = first.with(&first.refreshes().await.ok());
    let third = second.with(&second.refreshes().await.ok());
    first.refreshes().await.refused(401, NO_REFRESH);
    third.is_out().await;
    second.is_out().await;
}

#[apply(each_store)]
#[tokio::test]
async fn a_clock_that_was_set_back_does_not_keep_a_former_refresh_token_good(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let alice = server.member("alice").await;
    let next = alice.with(&alice.refreshes().await.ok());
    server.turn_clock(-60_000);
    alice.refreshes().await.refused(401, NO_REFRESH);
    next.is_out().await;
}

/// The key that signs tokens is changed while tabs are open.
#[apply(each_store)]
#[tokio::test]
async fn a_repeated_refresh_is_understood_under_the_next_key(kind: Kind) {
    let database = Database::new(kind).await;
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

#[apply(each_store)]
#[tokio::test]
async fn whoever_logs_out_is_out_here_and_not_elsewhere(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let here = server.member("alice").await;
    let elsewhere = server.session_of("alice").await;
    let (gone, mut stays) = (
        Socket::signed_in(&here).await,
        Socket::signed_in(&elsewhere).await,
    );
    assert_eq!(here.logs_out(json!({})).await, 1);
    gone.ends().await;
    here.is_out().await;
    here.calls(Method::POST, "/logout", json!({ "all": true }))
        .await
        .refused(401, ENDED);
    elsewhere.is_in().await;
    assert!(stays.answers().await);
    elsewhere
        .calls(Method::POST, "/logout", json!({ "all": { "$gt": "" } }))
        .await
        .invalid(json!({ "all": "please provide true or false" }));
}

#[apply(each_store)]
#[tokio::test]
async fn whoever_logs_out_everywhere_is_out_everywhere(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let sessions = [
        server.member("alice").await,
        server.session_of("alice").await,
        server.session_of("alice").await,
    ];
    let bob = server.member("bob").await;
    let mut sockets = Vec::new();
    for session in &sessions {
        sockets.push(Socket::signed_in(session).await);
    }
    assert_eq!(sessions[1].logs_out(json!({ "all": true })).await, 3);
    for (session, socket) in sessions.iter().zip(sockets) {
        socket.ends().await;
        session.is_out().await;
    }
    bob.is_in().await;
    server.session_of("alice").await.is_in().await;
}

#[apply(each_store)]
#[tokio::test]
async fn a_user_sees_and_ends_their_own_sessions(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let [alice, bob] = [server.member("alice").await, server.member("bob").await];
    let body = json!({ "username": "alice", "password": PASSWORD });
    let login = server
        .request(Method::POST, "/login")
        .header("user-agent", "a telephone")
        .json(&body);
    server.turn_clock(1_000);
    let telephone = alice.with(&Answer::of(login).await.ok());
    server.turn_clock(1_000);
    let alice = alice.with(&alice.refreshes().await.ok());

    let sessions = alice.lists_sessions().await;
    assert_eq!(sessions.len(), 2);
    assert_eq!(
        (&sessions[0]["userAgent"], &sessions[0]["current"]),
        (&json!("a telephone"), &json!(false))
    );
    assert_eq!(
        (&sessions[1]["current"], &sessions[0]["createdAt"]),
        (&json!(true), &sessions[0]["lastUsedAt"])
    );
    assert!(sessions[1]["lastUsedAt"].as_str() > sessions[1]["createdAt"].as_str());
    let fields: Vec<_> = sessions[0].as_object().unwrap().keys().collect();
    assert_eq!(
        fields,
        [
            "_id",
            "createdAt",
            "current",
            "expiresAt",
            "lastUsedAt",
            "userAgent"
        ],
        "and no token"
    );

    let id = telephone.session().await;
    let socket = Socket::signed_in(&telephone).await;
    for id in [&*id, "0199d1f0c0de7aaa8bbbccccddddeeee", "none"] {
        bob.ends_session(id)
            .await
            .refused(404, "No session with this id found");
    }
    telephone.is_in().await;
    alice.ends_session(&id).await.ok();
    socket.ends().await;
    telephone.is_out().await;
    alice
        .ends_session(&id)
        .await
        .refused(404, "No session with this id found");
    assert_eq!(alice.lists_sessions().await.len(), 1);
    alice.ends_session(&alice.session().await).await.ok();
    alice.is_out().await;
}

#[apply(each_store)]
#[tokio::test]
async fn another_password_ends_all_other_sessions(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let here = server.member("alice").await;
    let elsewhere = server.session_of("alice").await;
    let (mut stays, gone) = (
        Socket::signed_in(&here).await,
        Socket::signed_in(&elsewhere).await,
    );
    here.changes_own_password("a wrong one", NEW_PASSWORD)
        .await
        .refused(403, "The old password is wrong");
    elsewhere.is_in().await;
    assert_eq!(
        here.changes_own_password(PASSWORD, NEW_PASSWORD).await.ok()["endedSessionsCount"],
        1
    );
    gone.ends().await;
    elsewhere.is_out().await;
    here.is_in().await;
    assert!(stays.answers().await);
    here.refreshes().await.ok();
    server.enters("alice", PASSWORD).await.refused(401, WRONG);
}

#[apply(each_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_login_with_the_old_password_outlives_the_change(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let alice = server.member("alice").await;
    let (mut old, mut new) = (PASSWORD, NEW_PASSWORD);
    for _ in 0..6 {
        let logins = join_all((0..4).map(|_| server.enters("alice", old)));
        let (logins, changed) = join(logins, alice.changes_own_password(old, new)).await;
        changed.ok();
        for login in logins.into_iter().filter(|login| login.status == 200) {
            alice.with(&login.ok()).is_out().await;
        }
        (old, new) = (new, old);
    }
    assert_eq!(alice.lists_sessions().await.len(), 1);
}

#[apply(each_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_who_change_the_password_at_once_one_does(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let sessions = [
        server.member("alice").await,
        server.session_of("alice").await,
    ];
    let [first, second] = ["short red kettle", "round blue kettle"];
    let changes = join(
        sessions[0].changes_own_password(PASSWORD, first),
        sessions[1].changes_own_password(PASSWORD, second),
    )
    .await;
    let done = [changes.0, changes.1].map(|answer| answer.status == 200);
    assert!(
        done[0] != done[1],
        "the old password was the old one of one of them: {done:?}"
    );
    let (password, lost) = if done[0] {
        (first, second)
    } else {
        (second, first)
    };
    server.enters("alice", password).await.ok();
    server.enters("alice", lost).await.refused(401, WRONG);
}

#[apply(each_store)]
#[tokio::test]
async fn a_session_ends_by_itself_when_nobody_refreshes_it(kind: Kind) {
    let settings = [
        ("CAUSERIE_SESSION__ACCESS_LIFETIME_SECONDS", "900"),
        ("CAUSERIE_SESSION__REFRESH_LIFETIME_SECONDS", "600"),
    ];
    let server = TestServer::secure_with(kind, &settings).await;
    let [kept, left] = [server.member("alice").await, server.member("bob").await];
    server.turn_clock(400_000);
    let kept = kept.with(&kept.refreshes().await.ok());
    server.turn_clock(400_000);
    left.is_out().await;
    kept.is_in().await;
    kept.refreshes().await.ok();
}

#[tokio::test]
async fn whoever_has_too_many_sessions_loses_the_oldest() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let oldest = server.member("alice").await;
    let socket = Socket::signed_in(&oldest).await;
    for _ in 1..causerie::store::MAX_SESSIONS {
        server.turn_clock(1);
        server.enters("alice", PASSWORD).await.ok();
    }
    oldest.is_in().await;
    server.turn_clock(1);
    let newest = server.session_of("alice").await;
    socket.ends().await;
    oldest.is_out().await;
    assert_eq!(
        newest.lists_sessions().await.len(),
        causerie::store::MAX_SESSIONS
    );
}
