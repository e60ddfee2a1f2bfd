use super::*;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn alice() -> User {
    User {
        id: UserId::from_bytes([7; 16]),
        first_name: "Alice".into(),
        last_name: "A".into(),
        kind: UserType::Consumer,
        created_at: NOW,
        updated_at: NOW,
        deleted: false,
    }
}

fn valid(tokens: &Tokens, token: &str, now: Timestamp) -> Result<UserId, TokenError> {
    tokens.verify(token, now).map(|verified| verified.user)
}

#[test]
fn a_token_speaks_for_its_user_until_it_expires() {
    let tokens = Tokens::new(b"key", []);
    let session = Some(SessionId::from_bytes([3; 16]));
    let token = tokens.sign(&alice(), session, NOW, Some(60));
    let said = Claims {
        user: alice().id,
        session,
        ends: Some(NOW.0 / 1000 + 60),
    };
    assert_eq!(tokens.verify(&token, NOW), Ok(said));
    assert_eq!(tokens.verify(&token, Timestamp(NOW.0 + 59_999)), Ok(said));
    assert_eq!(
        tokens.verify(&token, Timestamp(NOW.0 + 60_000)),
        Err(TokenError::Expired)
    );
}

#[test]
fn a_token_without_an_end_stays_valid() {
    let tokens = Tokens::new(b"key", []);
    let token = tokens.sign(&alice(), None, NOW, None);
    assert_eq!(valid(&tokens, &token, Timestamp(i64::MAX)), Ok(alice().id));
}

#[test]
fn a_token_outlives_its_key_where_that_is_wanted() {
    let token = Tokens::new(b"old", []).sign(&alice(), None, NOW, None);
    assert_eq!(
        valid(&Tokens::new(b"new", [&b"older"[..], b"old"]), &token, NOW),
        Ok(alice().id)
    );
    assert_eq!(
        valid(&Tokens::new(b"new", [&b"older"[..]]), &token, NOW),
        Err(TokenError::Signature)
    );
}

#[test]
fn whatever_is_not_a_token_of_ours_is_refused_with_the_reason() {
    let tokens = Tokens::new(b"key", []);
    let token = tokens.sign(&alice(), None, NOW, None);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let of_another_key = Tokens::new(b"other", []).sign(&alice(), None, NOW, None);
    // {"alg":"none","typ":"JWT"} and {"alg":"HS512","typ":"JWT"}
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let hs512 = "eyJhbGciOiJIUzUxMiIsInR5cCI6IkpXVCJ9";
    for (text, reason) in [
        (String::new(), TokenError::Missing),
        ("nonsense".into(), TokenError::Malformed),
        (format!("{token}.more"), TokenError::Malformed),
        ("a.b.c".into(), TokenError::Undecodable),
        (format!("{signed}."), TokenError::Unsigned),
        (format!("{none}.{claims}."), TokenError::Unsigned),
        (
            format!("{none}.{claims}.{signature}"),
            TokenError::Undecodable,
        ),
        (
            format!("{hs512}.{claims}.{signature}"),
            TokenError::Algorithm,
        ),
        (of_another_key, TokenError::Signature),
        (
            format!("{header}.{claims}x.{signature}"),
            TokenError::Signature,
        ),
    ] {
        assert_eq!(tokens.verify(&text, NOW), Err(reason), "{text}");
    }
}

#[test]
fn a_header_with_critical_extensions_is_refused_and_other_fields_are_ignored() {
    let tokens = Tokens::new(b"key", []);
    let token = tokens.sign(&alice(), None, NOW, None);
    let claims = token.split('.').nth(1).unwrap();
    let with_header = |header: &str| {
        let signed = format!("{}.{claims}", BASE64URL_NOPAD.encode(header.as_bytes()));
        format!("{signed}.{}", tokens.macs(signed.as_bytes())[0])
    };
    assert_eq!(
        valid(
            &tokens,
            &with_header(r#"{"alg":"HS256","b64":true,"x":1}"#),
            NOW
        ),
        Ok(alice().id)
    );
    for (header, reason) in [
        (r#"{"alg":"HS256","crit":["exp"]}"#, TokenError::Malformed),
        (r#"{"alg":"HS256","crit":[]}"#, TokenError::Malformed),
        (r#"{"alg":"HS256","crit":null}"#, TokenError::Malformed),
        (r#"{"alg":"HS256","\u0063rit":"x"}"#, TokenError::Malformed),
        (
            r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#,
            TokenError::Malformed,
        ),
        (r#"{"alg":"HS256","b64":false}"#, TokenError::Malformed),
        (r#"{"alg":"HS256","b64":null}"#, TokenError::Malformed),
        (r#"["alg"]"#, TokenError::Undecodable),
    ] {
        assert_eq!(
            tokens.verify(&with_header(header), NOW),
            Err(reason),
            "{header}"
        );
    }
}
