//! Fields of the items on a page.

use serde_json::Value;

pub fn seqs(page: &Value) -> Vec<u64> {
    page["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["seq"].as_u64().unwrap())
        .collect()
}

pub fn ids_of(users: &Value) -> Vec<Value> {
    users
        .as_array()
        .unwrap()
        .iter()
        .map(|user| user["_id"].clone())
        .collect()
}
