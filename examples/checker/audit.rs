//! Compares a room's log with what clients sent and which responses they received: every
//! acknowledged message is in the log, no message is in it twice, and every entry was caused by a
//! client.

use std::collections::HashMap;

use crate::{
    history::{Deletion, RoomHistory, Sent},
    view::{Id, Log, What},
    world::Room,
};

/// The state of a room, according to its log.
pub struct Known {
    pub log: Log,
    /// The members, each with the sequence number of the entry that added them (0 for initial
    /// members).
    pub members: HashMap<Id, u64>,
    /// The current name, if the room was renamed.
    pub name: Option<String>,
}

impl Known {
    /// Replays the log of a room.
    pub fn new(room: &Room, log: Log) -> Self {
        let mut members: HashMap<_, _> = room.first.iter().map(|member| (*member, 0)).collect();
        let mut name = None;
        for (seq, what) in (1..).zip(log.entries()) {
            match what {
                What::Added(user) => _ = members.insert(*user, seq),
                What::Removed(user) => _ = members.remove(user),
                What::Renamed(to) => name = Some(to.clone()),
                _ => {}
            }
        }
        Self { log, members, name }
    }

    /// Returns the number of unread messages for a user whose read mark is `read`. The user's own
    /// messages do not count.
    pub fn unread(&self, user: Id, read: u64) -> u64 {
        self.log
            .messages()
            .filter(|(seq, _, author, _)| *seq > read && *author != user)
            .count() as u64
    }
}

/// Returns the differences between a log and the history of its room.
pub fn audit(known: &Known, history: &RoomHistory) -> Vec<String> {
    let mut wrong = Vec::new();
    messages(known, history, &mut wrong);
    changes(known, &mut wrong);
    names(known, history, &mut wrong);
    for (user, membership) in &history.members {
        let is_in = known.members.contains_key(user);
        if membership.certain.is_some_and(|certain| certain != is_in) {
            wrong.push(format!(
                "{user} was acknowledged to be {} the room",
                if is_in { "out of" } else { "in" }
            ));
        }
    }
    wrong
}

fn messages(known: &Known, history: &RoomHistory, wrong: &mut Vec<String>) {
    let by_id: HashMap<_, _> = history
        .sent
        .iter()
        .filter_map(|(client_id, sent)| Some((sent.acknowledged?.0, client_id)))
        .collect();
    let mut found: HashMap<&str, (Id, u64)> = HashMap::new();
    for (seq, what) in (1..).zip(known.log.entries()) {
        let What::Message { id, author, said } = what else {
            continue;
        };
        let client_id = said
            .as_ref()
            .map(|said| said.client_id.as_str())
            .or_else(|| by_id.get(id).map(|client_id| client_id.as_str()));
        let sent = client_id.and_then(|client_id| Some((client_id, history.sent.get(client_id)?)));
        let Some((client_id, sent)) = sent else {
            wrong.push(format!(
                "entry {seq} is a message that nobody sent: {what:?}"
            ));
            continue;
        };
        if let Some((_, first)) = found.insert(client_id, (*id, seq)) {
            wrong.push(format!(
                "{client_id} stands there twice: entries {first} and {seq}"
            ));
        }
        if sent.author != *author {
            wrong.push(format!(
                "{client_id} was sent by {}, and entry {seq} says {author}",
                sent.author
            ));
        }
        wrong.extend(
            content(sent, said.as_ref().map(|said| said.text.as_str()))
                .map(|what| format!("{client_id}, entry {seq}: {what}")),
        );
    }
    for (client_id, sent) in &history.sent {
        let stands = found.get(client_id.as_str());
        if let Some(acknowledged) = sent.acknowledged
            && stands != Some(&acknowledged)
        {
            wrong.push(format!(
                "{client_id} was acknowledged as {acknowledged:?}, and there is {stands:?}"
            ));
        }
    }
}

/// Compares the text of a message in the log with its recorded edits and deletion.
fn content(sent: &Sent, text: Option<&str>) -> Option<String> {
    match (sent.deletion, text) {
        (Deletion::Yes, Some(text)) => Some(format!(
            "its deletion was acknowledged, and it says {text:?}"
        )),
        (Deletion::No, None) => Some("nobody has deleted it, and it says nothing".into()),
        (_, Some(text)) if !sent.may_say(text) => Some(format!(
            "it says {text:?}, and its edits were {:?}",
            sent.edits
        )),
        _ => None,
    }
}

/// Checks that edits and deletions refer to earlier messages, and that no message is deleted twice.
fn changes(known: &Known, wrong: &mut Vec<String>) {
    let mut messages: HashMap<Id, bool> = HashMap::new();
    for (seq, what) in (1..).zip(known.log.entries()) {
        let deleted = match what {
            What::Message { id, .. } => {
                if messages.insert(*id, false).is_some() {
                    wrong.push(format!("entry {seq} has the id of another message, {id}"));
                }
                continue;
            }
            What::Edit { id, .. } => messages.get(id).copied(),
            What::Deletion(id) => messages.insert(*id, true),
            _ => continue,
        };
        if deleted != Some(false) {
            wrong.push(format!(
                "entry {seq} is of a message that is not there: {what:?}"
            ));
        }
    }
    for (seq, what) in (1..).zip(known.log.entries()) {
        if let What::Message { id, said, .. } = what
            && said.is_none() != messages.get(id).copied().unwrap_or_default()
        {
            wrong.push(format!("entry {seq} and its deletion disagree: {what:?}"));
        }
    }
}

fn names(known: &Known, history: &RoomHistory, wrong: &mut Vec<String>) {
    let mut counts: HashMap<&str, u32> = HashMap::new();
    for what in known.log.entries() {
        if let What::Renamed(name) = what {
            *counts.entry(name).or_default() += 1;
        }
    }
    wrong.extend(
        counts
            .keys()
            .filter(|name| !history.names.contains_key(**name))
            .map(|name| format!("nobody has named it {name:?}")),
    );
    for (name, acknowledged) in &history.names {
        let count = counts.get(name.as_str()).copied().unwrap_or_default();
        if count > 1 || (*acknowledged && count == 0) {
            wrong.push(format!("it was named {name:?} once, acknowledged: {acknowledged}; the log says so {count} times"));
        }
    }
}
