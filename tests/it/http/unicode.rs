//! Texts from all of Unicode: invisible text counts as empty, names do not affect the text around
//! them, and a password is the same in whichever form a keyboard enters it.

use argon2::{Argon2, password_hash::PasswordHasher};
use causerie::model::{Credentials, PasswordHash, Username};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    answer::Answer,
    databases::{Database, Kind},
    harness::TestServer,
    people::{PASSWORD, SECURE},
    store::user,
    wire::Socket,
};

const EMPTY: &str = "string cannot be empty";
const CHARACTERS: &str = "please leave out control characters, line breaks and characters that override the direction of text";
const LENGTH: &str = "please provide 1 to 200 characters";
/// Texts that show nothing.
const BLANK: [&str; 10] = [
    "\u{200b}",
    "\u{2800}",
    "\u{3164}",
    "\u{115f}",
    "\u{ad}",
    "\0",
    "\u{1b}\u{7f}",
    " \u{2060}\u{200d}\n",
    "\u{202e}\u{202c}",
    "\u{feff}\u{fe0f}",
];
/// Texts that affect the text around them.
const DISRUPTIVE: [&str; 6] = [
    "a\u{202e}b",
    "\u{2066}a\u{2069}",
    "a\0b",
    "a\nb",
    "a\u{2028}b",
    "a\u{85}",
];
/// Valid names.
const NAMES: [&str; 7] = [
    "می\u{200c}خواهم",
    "क\u{94d}\u{200d}ष",
    "👩\u{200d}👧\u{200d}👦",
    "❤\u{fe0f}",
    "דוד\u{200f}!",
    "E\u{301}lodie",
    "🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
];

#[tokio::test]
async fn an_invisible_message_counts_as_empty_everywhere() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, _, room) = server.two_in_a_room().await;
    let mut socket = Socket::of(&alice, &room).await;
    let post = alice.says(&room, "hello").await;
    for blank in BLANK {
        alice
            .posts(&room, blank)
            .await
            .invalid(json!({ "messageText": EMPTY }));
        alice
            .edits(&room, &post["postId"], blank)
            .await
            .invalid(json!({ "messageText": EMPTY }));
        let refused = socket
            .is_refused(
                "send message",
                json!([{ "chatRoomId": room, "messageText": blank }]),
            )
            .await;
        assert!(
            refused.starts_with("send message takes"),
            "{blank:?}: {refused}"
        );
    }
    assert_eq!(alice.reads(&room, "").await, ["hello"]);
    // A text that shows anything is kept as it was sent, whatever else it contains.
    for text in ["\u{200b}\u{202e}a\0\n", "\u{301}", "❤\u{fe0f}"] {
        assert_eq!(
            alice.says(&room, text).await["message"]["messageText"],
            *text
        );
        assert_eq!(
            alice.edits(&room, &post["postId"], text).await.ok()["post"]["message"]["messageText"],
            *text
        );
    }
}

#[tokio::test]
async fn user_names_are_visible_and_do_not_affect_surrounding_text() {
    let server = TestServer::start(Kind::Sqlite).await;
    let alice = server.person("Alice").await;
    let own = format!("/users/{}", alice.id);
    let wrong = BLANK
        .iter()
        .chain(&["\u{301}", "\u{20e3}"])
        .map(|name| (name, EMPTY))
        .chain(DISRUPTIVE.iter().map(|name| (name, CHARACTERS)));
    for (name, error) in wrong {
        let body = json!({ "firstName": name, "lastName": name, "type": "consumer" });
        server
            .post("/users", &body)
            .await
            .invalid(json!({ "firstName": error, "lastName": error }));
        alice
            .calls(Method::PATCH, &own, json!({ "firstName": name }))
            .await
            .invalid(json!({ "firstName": error }));
    }
    for name in NAMES {
        assert_eq!(server.person(name).await.user["firstName"], *name);
        assert_eq!(
            alice
                .calls(Method::PATCH, &own, json!({ "lastName": name }))
                .await
                .ok()["user"]["lastName"],
            *name
        );
    }
}

#[tokio::test]
async fn room_names_are_visible_and_do_not_affect_surrounding_text() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let initiation =
        |name: &str| json!({ "userIds": [bob.id], "type": "consumer-to-consumer", "name": name });
    let path = format!("/room/{room}");
    for (name, error) in BLANK
        .iter()
        .map(|name| (name, LENGTH))
        .chain(DISRUPTIVE.iter().map(|name| (name, CHARACTERS)))
    {
        alice
            .calls(Method::POST, "/room/initiate", initiation(name))
            .await
            .invalid(json!({ "name": error }));
        alice
            .calls(Method::PUT, &path, json!({ "name": name }))
            .await
            .invalid(json!({ "name": error }));
    }
    for name in NAMES {
        alice
            .calls(Method::POST, "/room/initiate", initiation(name))
            .await
            .ok();
        assert_eq!(
            alice
                .calls(Method::PUT, &path, json!({ "name": name }))
                .await
                .ok()["chatRoom"]["name"],
            *name
        );
    }
}

/// One password as different keyboards enter it: composed or decomposed, with different spaces.
const TYPED: [&str; 3] = [
    "grüner Kessel Å",
    "gru\u{308}ner Kessel A\u{30a}",
    "grüner\u{a0}Kessel\u{3000}\u{212b}",
];

fn registration(username: &str, password: &str) -> Value {
    json!({ "firstName": "Carol", "lastName": "Test", "type": "consumer", "username": username, "password": password })
}

#[tokio::test]
async fn a_password_matches_in_every_unicode_form() {
    let server = TestServer::secure(Kind::Sqlite).await;
    for (n, registered) in TYPED.iter().enumerate() {
        let username = format!("carol{n}");
        server
            .post("/users", &registration(&username, registered))
            .await
            .ok();
        for typed in TYPED {
            server.enters(&username, typed).await.ok();
        }
        server
            .enters(&username, "gruner Kessel A")
            .await
            .refused(401, "Wrong username or password");
    }
    let login = server.enters("carol0", TYPED[1]).await.ok();
    let (id, token) = (
        login["user"]["_id"].as_str().unwrap(),
        login["authorization"].as_str().unwrap(),
    );
    let change = async |old: &str, new: &str| {
        let body = json!({ "oldPassword": old, "newPassword": new });
        let request = server.request(Method::PUT, &format!("/users/{id}/password"));
        Answer::of(
            request
                .header("authorization", format!("Bearer {token}"))
                .json(&body),
        )
        .await
    };
    change("gruner Kessel A", PASSWORD)
        .await
        .refused(403, "The old password is wrong");
    change(TYPED[2], "cafe\u{301} au lait, s'il vous plai\u{302}t")
        .await
        .ok();
    server
        .enters("carol0", "café au lait, s'il vous plaît")
        .await
        .ok();
    server
        .enters("carol0", TYPED[0])
        .await
        .refused(401, "Wrong username or password");
}

#[tokio::test]
async fn hashes_of_unnormalized_passwords_verify_and_are_replaced() {
    let database = Database::new(Kind::Sqlite).await;
    let store = database.open().await;
    // The last one could not be registered today.
    for (n, typed) in (1..).zip(TYPED.iter().chain(&["tall\tgreen\u{a0}kettle\n"])) {
        let hash = Argon2::default()
            .hash_password(typed.as_bytes())
            .unwrap()
            .to_string();
        let credentials = Credentials {
            username: Username::parse(&format!("carol{n}")).unwrap(),
            password: PasswordHash(hash),
        };
        assert!(
            store
                .accounts
                .add(user(n), Some(credentials))
                .await
                .unwrap()
        );
    }
    store.database.close().await;
    drop(store);
    let server = TestServer::on(database, &SECURE).await;
    // The first login needs the form in which the password was registered; later ones accept any
    // form.
    for (n, typed) in (1..).zip(TYPED) {
        let username = format!("carol{n}");
        server
            .enters(&username, "tall green kettle")
            .await
            .refused(401, "Wrong username or password");
        let login = server.enters(&username, typed).await.ok();
        assert_eq!(login["user"]["_id"], user(n).id.to_string());
        for typed in TYPED {
            let by_id = format!("/login/{}", user(n).id);
            server
                .post(&by_id, &json!({ "password": typed }))
                .await
                .ok();
        }
    }
    for _ in 0..2 {
        server
            .enters("carol4", "tall\tgreen\u{a0}kettle\n")
            .await
            .ok();
    }
    server.enters("carol4", "tall\tgreen kettle\n").await.ok();
}

#[tokio::test]
async fn a_new_password_is_visible_and_has_no_control_characters() {
    let server = TestServer::start(Kind::Sqlite).await;
    for (password, error) in [
        (
            "tall green\tkettle",
            "this password has control characters in it",
        ),
        (
            "tall green kettle\r\n",
            "this password has control characters in it",
        ),
        (
            "\u{200b}\u{3164}\u{200b}\u{3164}\u{200b}\u{3164}\u{200b}\u{3164}",
            "this password is nothing but white space",
        ),
        (
            "e\u{301}a\u{301}i\u{301}o\u{301}",
            "please provide 8 to 256 characters",
        ),
    ] {
        server
            .post("/users", &registration("carol", password))
            .await
            .invalid(json!({ "password": error }));
    }
    server
        .post(
            "/users",
            &registration("carol", "❤\u{fe0f}👩\u{200d}💻 kettle"),
        )
        .await
        .ok();
    server
        .post(
            "/login",
            &json!({ "username": "carol", "password": "❤\u{fe0f}👩\u{200d}💻\u{a0}kettle" }),
        )
        .await
        .ok();
}
