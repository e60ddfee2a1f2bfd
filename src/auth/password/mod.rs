//! Validates, hashes and verifies passwords.
//!
//! The hash is Argon2id (RFC 9106) with the parameters that OWASP recommends, 19 MiB and two
//! passes, so that stolen hashes are hard to crack. Hashing is expensive, so it runs on threads of
//! its own with a low priority, at most as many at once as there are cores: a flood of logins
//! queues up, and other requests are not delayed.
//!
//! Passwords are normalized as in the profile `OpaqueString` (RFC 8265, 4.2), because keyboards and
//! systems encode the same letter in several ways. Of the profile's restrictions, only the one on
//! control characters is applied, to new passwords; the others would refuse emoji. Older hashes,
//! made of passwords without normalization, still verify and are replaced at the next login.

use std::{fmt::Display, ops::RangeInclusive, sync::Arc, thread};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc},
};
use tokio::sync::{Semaphore, oneshot};
use unicode_normalization::UnicodeNormalization;
use zxcvbn::{Score, zxcvbn};

use crate::{
    error::{Error, Result},
    model::{PasswordHash, User, Username, is_blank},
};

/// A hash that matches no password but costs as much to verify as any other. Passwords are compared
/// with it if there is no account.
const DUMMY_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGhhcyBpdCE$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The error of a new password of the wrong length.
pub const LENGTH: &str = "please provide 8 to 256 characters";
/// The error of a new password that is blank. At login, a blank password counts as missing.
const BLANK: &str = "this password is nothing but white space";
/// The error of a new password that is easy to guess.
pub const TOO_WEAK: &str = "this password is too easy to guess";
/// The error of a new password with a line break, a tab or another control character in it.
const CONTROL: &str = "this password has control characters in it";

/// The `nice` value of hashing threads: they get a tenth of a busy core.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// The minimum and maximum length of a password, in characters.
const LENGTHS: RangeInclusive<usize> = 8..=256;
/// The maximum number of characters that NFC composes into one.
const COMPOSED: usize = 4;

/// The number of characters per chunk in the strength check. Common passwords are not longer.
const CHUNK: usize = 32;
/// The characters that may replace a letter, for each letter with several replacements.
const SIGNS: [&str; 7] = ["4@", "({[<", "69", "1!|", "1|7", "$5", "+7"];
/// The maximum number of readings of a chunk for which the strength check runs. A chunk with more
/// is not a common word; the first row of a keyboard, shifted and not, has exactly this many.
const READINGS: usize = 32;

/// Returns the error text of an invalid new password, independent of the user; `None` if it is
/// valid. The length is counted in characters of the normal form.
#[must_use]
pub fn validate(password: &str) -> Option<&'static str> {
    // Skips the normalization of a text that cannot become short enough.
    let is_huge = password.chars().nth(LENGTHS.end() * COMPOSED).is_some();
    if is_huge || !LENGTHS.contains(&normalized(password).chars().count()) {
        return Some(LENGTH);
    }
    if is_blank(password) {
        return Some(BLANK);
    }
    password.contains(char::is_control).then_some(CONTROL)
}

/// Returns the normal form of a password: ASCII spaces instead of all other spaces, and NFC.
fn normalized(password: &str) -> String {
    if password.is_ascii() {
        return password.to_owned();
    }
    password
        .chars()
        .map(|c| if is_space_separator(c) { ' ' } else { c })
        .nfc()
        .collect()
}

/// Returns whether a character is in the Unicode category Zs.
fn is_space_separator(c: char) -> bool {
    matches!(
        c,
        ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'
            ..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
    )
}

/// Returns whether a password is easy to guess. A password is at least as hard to guess as any part
/// of it, so a long one is checked in chunks, and one hard chunk is enough. Checking the whole
/// password would take many times as long as the hash, and logins would have to wait for that.
fn is_easy(password: &str, names: &[&str]) -> bool {
    let letters: Vec<_> = password.chars().collect();
    letters.chunks(CHUNK).all(|piece| {
        readings(piece) <= READINGS && zxcvbn(&String::from_iter(piece), names).score() < Score::Two
    })
}

/// Returns the number of words that a chunk may stand for if its signs replace letters.
fn readings(piece: &[char]) -> usize {
    SIGNS
        .iter()
        .map(|signs| {
            signs
                .chars()
                .filter(|sign| piece.contains(sign))
                .count()
                .max(1)
        })
        .product()
}

/// The result of comparing a password with a hash.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The password is wrong, or there is no hash.
    Wrong,
    /// The password is correct.
    Right,
    /// The password is correct, but the hash was made without normalization. This is the hash of
    /// the normal form.
    Outdated(PasswordHash),
}

/// Hashes and verifies passwords.
#[derive(Clone)]
pub struct Passwords {
    at_once: Arc<Semaphore>,
}

impl Passwords {
    /// Creates a hasher that runs as many hashes at once as this machine has cores.
    #[must_use]
    pub fn new() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            at_once: Arc::new(Semaphore::new(cores)),
        }
    }

    /// Returns the hash of a new password; `None` if it is a common password or made of the user's
    /// names.
    pub async fn hash(
        &self,
        password: String,
        username: &Username,
        user: &User,
    ) -> Result<Option<PasswordHash>> {
        let names = [
            username.as_str().to_owned(),
            user.first_name.clone(),
            user.last_name.clone(),
        ];
        self.run(move || {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let password = normalized(&password);
            if is_easy(&password, &names) {
                return Ok(None);
            }
            Ok(Some(hash(&password)?))
        })
        .await
    }

    /// Compares a password with a hash. Without a hash the result is [`Verdict::Wrong`], after the
    /// same time.
    pub async fn verify(&self, password: String, stored: Option<PasswordHash>) -> Result<Verdict> {
        self.run(move || {
            let has_account = stored.is_some();
            let stored = stored.unwrap_or_else(|| PasswordHash(DUMMY_HASH.into()));
            let stored = phc::PasswordHash::new(&stored.0).map_err(|error| fault(&error))?;
            let matches = |form: &str| {
                Argon2::default()
                    .verify_password(form.as_bytes(), &stored)
                    .is_ok()
                    && has_account
            };
            let normal = normalized(&password);
            if matches(&normal) {
                return Ok(Verdict::Right);
            }
            // Depends only on the password that was typed, so the time reveals nothing about the
            // account.
            if normal != password && matches(&password) {
                return Ok(Verdict::Outdated(hash(&normal)?));
            }
            Ok(Verdict::Wrong)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = Arc::clone(&self.at_once)
            .acquire_owned()
            .await
            .map_err(|closed| Error::internal(closed.to_string()))?;
        let (reply, answer) = oneshot::channel();
        let work = move || {
            lower_priority();
            let outcome = work();
            // The permit is held until the work is done, even if the caller has dropped its future.
            drop(permit);
            let _ = reply.send(outcome);
        };
        // A new thread each time, because its priority cannot be raised again. The cost is
        // negligible compared with the work.
        thread::Builder::new()
            .name("password".into())
            .spawn(work)
            .map_err(|error| {
                Error::internal(format!("failed to spawn the password thread: {error}"))
            })?;
        answer
            .await
            .unwrap_or_else(|lost| Err(Error::internal(lost.to_string())))
    }
}

/// Lowers the priority of the calling thread, so that a flood of logins does not take the processor
/// from other users. On systems other than Linux this would change the priority of the whole
/// process, so it does nothing there.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "failed to lower the thread priority");
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

fn hash(password: &str) -> Result<PasswordHash> {
    let hash = Argon2::default()
        .hash_password(password.as_bytes())
        .map_err(|error| fault(&error))?;
    Ok(PasswordHash(hash.to_string()))
}

/// Converts an error of the library, which does not contain the password.
fn fault(error: &impl Display) -> Error {
    Error::internal(format!("password hashing failed: {error}"))
}

#[cfg(test)]
mod tests;
