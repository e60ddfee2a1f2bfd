//! Tests of the MongoDB servers that the other tests use: a test that kills a server proves nothing
//! if that server survives.

use mongodb::{
    Client, Collection,
    bson::{Document, doc},
    error::Result,
};

use crate::support::mongod::{Mongod, ReplicaSet};

async fn notes(url: &str) -> Collection<Document> {
    Client::with_uri_str(format!("{url}&w=majority&journal=true"))
        .await
        .unwrap()
        .default_database()
        .unwrap()
        .collection("notes")
}

async fn notes_on(server: &Mongod) -> Collection<Document> {
    notes(&format!(
        "mongodb://{}/notes?directConnection=true",
        server.host()
    ))
    .await
}

async fn write(notes: &Collection<Document>, id: i32) -> Result<()> {
    notes.insert_one(doc! { "_id": id }).await.map(|_| ())
}

async fn has(notes: &Collection<Document>, id: i32) -> bool {
    notes.find_one(doc! { "_id": id }).await.unwrap().is_some()
}

#[tokio::test]
async fn a_killed_or_stopped_mongod_restarts_with_its_data() {
    let mut server = Mongod::start(&[]);
    let address = server.host();
    write(&notes_on(&server).await, 0).await.unwrap();
    let stop_while_held_up = |server: &mut Mongod| {
        server.freeze();
        server.stop();
    };
    for (id, end) in [
        (1, Mongod::kill as fn(&mut Mongod)),
        (2, Mongod::stop),
        (3, stop_while_held_up),
    ] {
        let pid = server.pid();
        end(&mut server);
        assert!(
            std::net::TcpStream::connect(&address).is_err(),
            "nobody answers there"
        );
        server.start_again();
        assert_ne!(server.pid(), pid);
        assert_eq!(server.host(), address);
        let notes = notes_on(&server).await;
        assert!(has(&notes, id - 1).await);
        write(&notes, id).await.unwrap();
    }
}

#[tokio::test]
async fn a_query_without_an_index_is_refused() {
    let server = Mongod::start(&[]);
    let notes = notes_on(&server).await;
    write(&notes, 1).await.unwrap();
    let refusal = notes
        .find_one(doc! { "text": "x" })
        .await
        .unwrap_err()
        .to_string();
    assert!(refusal.contains("notablescan"), "{refusal}");
}

#[ignore = "slow"]
#[tokio::test]
async fn a_replica_set_elects_another_primary_and_keeps_its_data() {
    let mut set = ReplicaSet::start(3).await;
    let notes = notes(&set.url("notes")).await;
    write(&notes, 1).await.unwrap();
    let first = set.primary().await;
    set.members[first].kill();
    let second = set.primary().await;
    assert_ne!(second, first);
    assert!(has(&notes, 1).await);
    write(&notes, 2).await.unwrap();
    set.members[first].start_again();
    set.members[second].freeze();
    assert_ne!(
        set.primary().await,
        second,
        "one that is held up is not waited for"
    );
}
