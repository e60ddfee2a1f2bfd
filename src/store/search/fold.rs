//! Folding: two texts that differ in nothing but case, accents or compatibility forms become the same text.

use unicode_normalization::{
    UnicodeNormalization,
    char::{decompose_compatible, is_combining_mark},
};

/// Returns the text with case, accents and compatibility forms folded, in normal form C.
///
/// Case is folded fully (`Straße` is `STRASSE`), and every dotted or dotless i is an `i`. Compatibility forms (full width, half width,
/// ligatures) become the usual ones. A mark that makes another letter stays: vowel signs, tone marks, dakuten, the breve of `й`.
pub fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let mut folded = String::with_capacity(text.len());
    let mut base = '\0';
    let mut push = |part: char| {
        if !is_combining_mark(part) {
            base = part;
            push_folded(part, &mut folded);
        } else if makes_another_letter(base, part) {
            folded.push(part);
        }
    };
    for letter in text.chars().filter(|letter| !is_invisible(*letter)) {
        if is_single_jamo(letter) {
            push(letter);
        } else {
            decompose_compatible(letter, &mut push);
        }
    }
    folded.nfc().collect()
}

/// Full case folding. To capital letters and back is what makes `ß` and `ss`, or `ς` and `σ`, the same; to small letters first, since `ẞ` has
/// no other capital letter.
fn push_folded(letter: char, folded: &mut String) {
    if letter.is_ascii() {
        return folded.push(letter.to_ascii_lowercase());
    }
    for small in letter.to_lowercase().flat_map(char::to_uppercase).flat_map(char::to_lowercase) {
        match small {
            // Unicode does not decompose a stroke or a ligature of this kind, but readers take it for an accent.
            'æ' => folded.push_str("ae"),
            'œ' => folded.push_str("oe"),
            'đ' => folded.push('d'),
            'ħ' => folded.push('h'),
            'ł' => folded.push('l'),
            'ø' => folded.push('o'),
            'ŧ' => folded.push('t'),
            // Arabic and Persian keyboards have different letters for the same sound.
            'ى' | 'ی' => folded.push('ي'),
            'ک' => folded.push('ك'),
            // The tatweel only makes a word wider.
            '\u{640}' => {}
            other => folded.push(other),
        }
    }
}

/// Whether a mark makes another letter of the one it stands on. Marks of a script that is not named here do.
fn makes_another_letter(base: char, mark: char) -> bool {
    match mark {
        // Latin and Greek accents, and what is put around letters.
        '\u{300}'..='\u{36f}'
        | '\u{483}'..='\u{489}'
        | '\u{1ab0}'..='\u{1aff}'
        | '\u{1dc0}'..='\u{1dff}'
        | '\u{20d0}'..='\u{20ff}'
        | '\u{fe20}'..='\u{fe2f}' => ('\u{400}'..='\u{52f}').contains(&base) && makes_another_cyrillic_letter(base, mark),
        // The hamza and the madda of an alef are left out as often as not.
        '\u{653}'..='\u{655}' => base != '\u{627}',
        // Points of Hebrew, Arabic and Syriac.
        '\u{591}'..='\u{5c7}'
        | '\u{610}'..='\u{61a}'
        | '\u{64b}'..='\u{65f}'
        | '\u{670}'
        | '\u{6d6}'..='\u{6ed}'
        | '\u{711}'
        | '\u{730}'..='\u{74a}'
        | '\u{8ca}'..='\u{8ff}' => false,
        _ => true,
    }
}

/// `й`, `ї`, `ў`, `ѓ` and others are letters; `ё`, a stress and old signs of abbreviation make no difference.
fn makes_another_cyrillic_letter(base: char, mark: char) -> bool {
    match mark {
        '\u{300}' | '\u{483}'..='\u{489}' => false,
        '\u{301}' => matches!(base, 'г' | 'Г' | 'к' | 'К'),
        '\u{308}' => !matches!(base, 'е' | 'Е'),
        _ => true,
    }
}

/// Jamo as they are typed alone (`ㅋㅋ`, `ㅠㅠ`): decomposed they would join with their neighbours to other syllables.
fn is_single_jamo(letter: char) -> bool {
    ('\u{3131}'..='\u{318e}').contains(&letter)
}

/// Characters that are not seen and separate nothing: hyphens that may show, joiners, directions, variants. U+200B is none of them, since it
/// separates words.
fn is_invisible(letter: char) -> bool {
    matches!(
        letter,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200c}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}
