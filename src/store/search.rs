//! What is searched for, and what a word is: the same in every store.
//!
//! Words are put into the stores' indexes some time after the message was posted, so that posting does not wait for it: by whoever searches
//! the room, who first sees to it that nothing is missing, and otherwise on the side, a few messages at a time.

use std::{
    collections::HashSet,
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

use super::NewEntry;
use crate::model::{MessageId, RoomId, Seq, Timestamp, UserId};

/// The most words that are looked for; what else a client sends does not matter.
const WORDS: usize = 32;
/// The most characters of a word that matter.
const LETTERS: usize = 64;
/// How often some messages are put into the index on the side.
pub(super) const PAUSE: Duration = Duration::from_millis(250);
/// How many entries are looked at in one go.
pub(super) const PIECE: u64 = 250;

/// Which messages are looked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Search {
    /// Where.
    pub scope: Scope,
    /// Words that all have to be in the message, in any order. Case and accents make no difference. Where there is no word, nothing is found.
    pub words: String,
    /// Only messages before this one, by time and id.
    pub before: Option<(Timestamp, MessageId)>,
    /// The most messages.
    pub limit: u64,
}

/// Where messages are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// In one room, behind an entry.
    Room {
        /// The room.
        room: RoomId,
        /// The entry: 0 for the whole room, or whence a member [sees it](crate::model::Room::visible_from).
        after: Seq,
    },
    /// In all rooms of a user.
    RoomsOf {
        /// The user.
        user: UserId,
        /// Only what was posted since they came into each room.
        since_joined: bool,
    },
}

/// The words of a text, each once: small letters and digits without accents. A sigma is the same at the end of a word as within.
///
/// What is in an index stays as it was put there. To change what a word is: have SQLite make its index anew (`sigma.sql` does), since it
/// forgets words only if it is told them as they were.
pub(super) fn words(text: &str) -> Vec<String> {
    let plain: String = text.nfkd().filter(|letter| !is_combining_mark(*letter)).flat_map(char::to_lowercase).collect();
    // Small letters may have accents of their own.
    let plain = plain.nfkd().filter(|letter| !is_combining_mark(*letter)).map(|letter| if letter == 'ς' { 'σ' } else { letter });
    let plain: String = plain.collect();
    let words = plain.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
    let mut known = HashSet::new();
    words.map(|word| word.chars().take(LETTERS).collect::<String>()).filter(|word| known.insert(word.clone())).collect()
}

impl Search {
    /// The words that are looked for.
    pub(super) fn wanted(&self) -> Vec<String> {
        let mut words = words(&self.words);
        words.truncate(WORDS);
        words
    }
}

/// Rooms in which messages were posted that are not in the index yet. Forgotten when the server stops; whoever searches finds out anew.
#[derive(Default)]
pub(super) struct Behind(Mutex<HashSet<RoomId>>);

impl Behind {
    /// Notes the rooms of a batch.
    pub fn note(&self, rooms: impl Iterator<Item = RoomId>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(rooms);
    }

    /// Takes all of them.
    pub fn take(&self) -> Vec<RoomId> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect()
    }
}

/// The rooms into which something was appended.
pub(super) fn rooms_of(batch: &[NewEntry]) -> HashSet<RoomId> {
    batch.iter().map(|entry| entry.room).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_letters_and_digits_without_case_and_accents() {
        assert_eq!(words("Crème BRÛLÉE, creme; 42x!"), ["creme", "brulee", "42x"]);
        assert_eq!(words("E\u{301}te\u{301} été ÉTÉ"), ["ete"]);
        assert_eq!(words("İstanbul ﬁn Ⅻ ｗｉｄｅ"), ["istanbul", "fin", "xii", "wide"]);
        assert_eq!(words("日本 Привет Ёлка"), ["日本", "привет", "елка"]);
        assert_eq!(words("ΟΔΟΣ οδός Οδοσ σοφός"), ["οδοσ", "σοφοσ"]);
        assert_eq!(words("\"* - () \0 ^: \u{200d}¤"), Vec::<String>::new());
        assert_eq!(words(&"x".repeat(100)), ["x".repeat(64)]);
    }
}
