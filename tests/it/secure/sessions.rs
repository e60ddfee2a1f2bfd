//! Login, logout, the list of sessions, and changes of the password.

use futures_util::future::{join, join_all};
use reqwest::Method;
use rstest_reuse::apply;
use serde_json::json;

use crate::{
    each_store,
    support::{
        answer::Answer,
        databases::Kind,
        harness::TestServer,
        people::{ENDED, PASSWORD},
        wire::Socket,
    },
};

const WRONG: &str = "Wrong username or password";
const NEW_PASSWORD: &str = "short red kettle";

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
    let wrong = json!({ "success": false, "code": "wrong_credentials", "message": WRONG });
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

#[tokio::test]
async fn logging_out_ends_only_the_current_session() {
    let server = TestServer::secure(Kind::Sqlite).await;
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

#[tokio::test]
async fn logging_out_everywhere_ends_all_sessions() {
    let server = TestServer::secure(Kind::Sqlite).await;
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
async fn a_user_lists_and_ends_their_own_sessions(kind: Kind) {
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

#[tokio::test]
async fn changing_the_password_ends_all_other_sessions() {
    let server = TestServer::secure(Kind::Sqlite).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_with_the_old_password_do_not_outlive_the_change() {
    let server = TestServer::secure(Kind::Sqlite).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_concurrent_password_changes_succeeds() {
    let server = TestServer::secure(Kind::Sqlite).await;
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

#[tokio::test]
async fn a_login_over_the_session_limit_ends_the_oldest_session() {
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
