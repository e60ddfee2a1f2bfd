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
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGhhcyBpdCE$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

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
    pub async fn verify(&self, password: String, known: Option<PasswordHash>) -> Result<Verdict> {
        self.run(move || {
            let there = known.is_some();
            let known = known.unwrap_or_else(|| PasswordHash(NOBODY.into()));
            let known = phc::PasswordHash::new(&known.0).map_err(|error| fault(&error))?;
            let is_it = |form: &str| {
                Argon2::default()
                    .verify_password(form.as_bytes(), &known)
                    .is_ok()
                    && there
            };
            let normal = normalized(&password);
            if is_it(&normal) {
                return Ok(Verdict::Right);
            }
            // Depends only on the password that was typed, so the time reveals nothing about the
            // account.
            if normal != password && is_it(&password) {
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
            yield_to_others();
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
fn yield_to_others() {
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
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::model::{Timestamp, UserId, UserType};

    async fn hash_of(passwords: &Passwords, password: &str) -> Result<Option<PasswordHash>> {
        let (username, now) = (Username::parse("marlene1987").unwrap(), Timestamp(0));
        let (first_name, last_name) = ("Marlene".to_owned(), "Test".to_owned());
        let id = UserId::from_bytes([1; 16]);
        let user = User {
            id,
            first_name,
            last_name,
            kind: UserType::Consumer,
            created_at: now,
            updated_at: now,
            deleted: false,
        };
        passwords.hash(password.to_owned(), &username, &user).await
    }

    #[tokio::test]
    async fn a_password_is_known_again_and_no_other() {
        let passwords = Passwords::new();
        let [one, other] = ["tall green kettle", "tall green kettles"].map(str::to_owned);
        let hash = hash_of(&passwords, &one).await.unwrap().unwrap();
        assert!(
            hash.0.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{}",
            hash.0
        );
        assert_ne!(
            hash_of(&passwords, &one).await.unwrap().unwrap().0,
            hash.0,
            "each has its own salt"
        );
        let verify = async |password: &str, hash: Option<&PasswordHash>| {
            passwords
                .verify(password.to_owned(), hash.cloned())
                .await
                .unwrap()
        };
        assert!(matches!(verify(&one, Some(&hash)).await, Verdict::Right));
        assert!(matches!(verify(&other, Some(&hash)).await, Verdict::Wrong));
        assert!(matches!(verify(&one, None).await, Verdict::Wrong));
    }

    #[tokio::test]
    async fn a_password_is_the_same_in_every_form_in_which_it_is_typed() {
        let passwords = Passwords::new();
        let forms = [
            "gr\u{fc}ner Kessel 가\u{20}\u{c5}",
            "gru\u{308}ner\u{a0}Kessel\u{3000}\u{1100}\u{1161}\u{2003}\u{212b}",
        ];
        for registered in forms {
            let hash = hash_of(&passwords, registered).await.unwrap().unwrap();
            for typed in forms {
                assert!(
                    matches!(
                        passwords
                            .verify(typed.into(), Some(hash.clone()))
                            .await
                            .unwrap(),
                        Verdict::Right
                    ),
                    "{typed:?}"
                );
            }
            for wrong in [
                "gruner Kessel 가 Å",
                "GRÜNER KESSEL 가 Å",
                "ｇrüner Kessel 가 Å",
            ] {
                assert!(
                    matches!(
                        passwords
                            .verify(wrong.into(), Some(hash.clone()))
                            .await
                            .unwrap(),
                        Verdict::Wrong
                    ),
                    "{wrong:?}"
                );
            }
        }
        // A hash made without normalization verifies for the same spelling, and is then replaced.
        let old = hash(forms[1]).unwrap();
        assert!(matches!(
            passwords
                .verify(forms[0].into(), Some(old.clone()))
                .await
                .unwrap(),
            Verdict::Wrong
        ));
        let Verdict::Outdated(new) = passwords.verify(forms[1].into(), Some(old)).await.unwrap()
        else {
            panic!("it is the password")
        };
        for typed in forms {
            assert!(
                matches!(
                    passwords
                        .verify(typed.into(), Some(new.clone()))
                        .await
                        .unwrap(),
                    Verdict::Right
                ),
                "{typed:?}"
            );
        }
        assert!(matches!(
            passwords.verify(forms[1].into(), None).await.unwrap(),
            Verdict::Wrong
        ));
    }

    #[test]
    fn the_length_of_a_password_is_that_of_its_normal_form() {
        let decomposed = |count| "e\u{301}".repeat(count);
        assert_eq!(validate(&decomposed(7)), Some(LENGTH));
        assert_eq!(
            (validate(&decomposed(8)), validate(&decomposed(256))),
            (None, None)
        );
        assert_eq!(validate(&decomposed(257)), Some(LENGTH));
        assert_eq!(
            validate(&"\u{3b1}\u{313}\u{300}\u{345}".repeat(256)),
            None,
            "four that become one"
        );
        assert_eq!(validate(&"x".repeat(15_000_000)), Some(LENGTH));
        for (wrong, flaw_of_it) in [
            ("tall green\tkettle", CONTROL),
            ("tall green kettle\n", CONTROL),
            ("tall\0green kettle", CONTROL),
            ("\u{200b}\u{3164}".repeat(5).as_str(), BLANK),
        ] {
            assert_eq!(validate(wrong), Some(flaw_of_it), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn what_everybody_tries_first_will_not_do() {
        for weak in [
            "password",
            "12345678",
            "qwertyuiop",
            "iloveyou",
            "aaaaaaaaaaaa",
            "password123",
            "marlene1987",
        ] {
            assert!(
                hash_of(&Passwords::new(), weak).await.unwrap().is_none(),
                "{weak}"
            );
        }
    }

    #[tokio::test]
    async fn a_long_password_is_as_good_as_a_part_of_it() {
        let begins_easily = format!("{}tall green kettle", "aaaaaaaa".repeat(5));
        for good in [
            begins_easily.as_str(),
            "password: tall green kettle",
            "tall green kettle aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "4@({[<691!|7$5+",
        ] {
            assert!(
                hash_of(&Passwords::new(), good).await.unwrap().is_some(),
                "{good}"
            );
        }
        for unit in ["a", "0o", "12345678", "password"] {
            let weak: String = unit.chars().cycle().take(256).collect();
            assert!(
                hash_of(&Passwords::new(), &weak).await.unwrap().is_none(),
                "{weak}"
            );
        }
    }

    #[test]
    fn looking_how_easy_a_password_is_never_takes_many_times_its_hash() {
        let fastest = |work: &dyn Fn()| {
            let time = || {
                let begin = Instant::now();
                work();
                begin.elapsed()
            };
            (0..10).map(|_| time()).min().unwrap()
        };
        let hash = fastest(&|| {
            _ = Argon2::default()
                .hash_password(b"tall green kettle")
                .unwrap();
        });
        for letters in [
            "4@({[<691!|7$5+",
            "4@8({[<369&#!1/|0$5+7%2",
            "4@691!75$",
            "@!|469175",
            "!|$4691758320",
            "({!1|7",
            "4@69$5+7",
            "p4$$w0rd",
            "1!",
            "abcdefgh",
        ] {
            let hostile: String = letters.chars().cycle().take(256).collect();
            let look = fastest(&|| _ = is_easy(&hostile, &["marlene1987", "Marlene", "Test"]));
            assert!(
                look < 2 * hash,
                "{look:?} for {letters}, where the hash takes {hash:?}"
            );
        }
    }
}
