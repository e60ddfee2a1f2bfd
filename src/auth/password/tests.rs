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

async fn verify(passwords: &Passwords, password: &str, hash: Option<&PasswordHash>) -> Verdict {
    passwords
        .verify(password.to_owned(), hash.cloned())
        .await
        .unwrap()
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
    assert!(matches!(
        verify(&passwords, &one, Some(&hash)).await,
        Verdict::Right
    ));
    assert!(matches!(
        verify(&passwords, &other, Some(&hash)).await,
        Verdict::Wrong
    ));
    assert!(matches!(
        verify(&passwords, &one, None).await,
        Verdict::Wrong
    ));
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
                matches!(verify(&passwords, typed, Some(&hash)).await, Verdict::Right),
                "{typed:?}"
            );
        }
        for wrong in [
            "gruner Kessel 가 Å",
            "GRÜNER KESSEL 가 Å",
            "ｇrüner Kessel 가 Å",
        ] {
            assert!(
                matches!(verify(&passwords, wrong, Some(&hash)).await, Verdict::Wrong),
                "{wrong:?}"
            );
        }
    }
    // A hash made without normalization verifies for the same spelling, and is then replaced.
    let old = hash(forms[1]).unwrap();
    assert!(matches!(
        verify(&passwords, forms[0], Some(&old)).await,
        Verdict::Wrong
    ));
    let Verdict::Outdated(new) = verify(&passwords, forms[1], Some(&old)).await else {
        panic!("it is the password")
    };
    for typed in forms {
        assert!(
            matches!(verify(&passwords, typed, Some(&new)).await, Verdict::Right),
            "{typed:?}"
        );
    }
    assert!(matches!(
        verify(&passwords, forms[1], None).await,
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
