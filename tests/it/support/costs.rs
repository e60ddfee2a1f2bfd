//! The work that a database has done.

use mongodb::{
    Client,
    bson::{Document, doc},
};

use crate::support::databases::Database;

pub async fn raw(database: &Database) -> mongodb::Database {
    Client::with_uri_str(&database.url)
        .await
        .unwrap()
        .default_database()
        .unwrap()
}

/// Returns the profiled operations on messages during `work`.
pub async fn done_by<T>(database: &Database, work: impl Future<Output = T>) -> (T, Vec<Document>) {
    done_with("chatmessages", database, work).await
}

/// Returns the profiled operations on this collection during `work`.
pub async fn done_with<T>(
    collection: &str,
    database: &Database,
    work: impl Future<Output = T>,
) -> (T, Vec<Document>) {
    let database = raw(database).await;
    let of_collection = doc! { "ns": format!("{}.{collection}", database.name()) };
    database.run_command(doc! { "profile": 0 }).await.unwrap();
    database
        .collection::<Document>("system.profile")
        .drop()
        .await
        .unwrap();
    database
        .run_command(doc! { "profile": 1, "filter": of_collection })
        .await
        .unwrap();
    let outcome = work.await;
    database.run_command(doc! { "profile": 0 }).await.unwrap();
    let mut found = database
        .collection::<Document>("system.profile")
        .find(doc! {})
        .await
        .unwrap();
    let mut done = Vec::new();
    while found.advance().await.unwrap() {
        done.push(found.deserialize_current().unwrap());
    }
    (outcome, done)
}
