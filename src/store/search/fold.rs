//! Folding: texts that differ only in case, accents or compatibility forms become equal.

use unicode_normalization::{
    UnicodeNormalization,
    char::{decompose_compatible, is_combining_mark},
};

/// Returns the text with case, accents and compatibility forms folded, in normalization form C.
///
/// Case folding is full (`Straße` equals `STRASSE`), and every dotted or dotless i becomes `i`.
/// Compatibility forms (full width, half width, ligatures) are replaced by the usual ones. Marks
/// that make a different letter are kept: vowel signs, tone marks, dakuten, the breve of `й`.
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

/// Appends a letter with full case folding. Converting to upper case and back makes `ß` and `ss`,
/// or `ς` and `σ`, equal. Converting to lower case first is needed for `ẞ`, which has no other
/// upper case.
fn push_folded(letter: char, folded: &mut String) {
    if letter.is_ascii() {
        return folded.push(letter.to_ascii_lowercase());
    }
    for small in letter
        .to_lowercase()
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
    {
        match small {
            // Unicode does not decompose strokes and ligatures of this kind, but readers regard
            // them as accents.
            'æ' => folded.push_str("ae"),
            'œ' => folded.push_str("oe"),
            'đ' => folded.push('d'),
            'ħ' => folded.push('h'),
            'ł' => folded.push('l'),
            'ø' => folded.push('o'),
            'ŧ' => folded.push('t'),
            // Arabic and Persian keyboards produce different letters for the same sound.
            'ى' | 'ی' => folded.push('ي'),
            'ک' => folded.push('ك'),
            // The tatweel only widens a word.
            '\u{640}' => {}
            other => folded.push(other),
        }
    }
}

/// Returns whether a mark turns its base letter into a different letter. Marks of scripts that are
/// not listed here do.
fn makes_another_letter(base: char, mark: char) -> bool {
    match mark {
        // Latin and Greek accents, and enclosing marks.
        '\u{300}'..='\u{36f}'
        | '\u{483}'..='\u{489}'
        | '\u{1ab0}'..='\u{1aff}'
        | '\u{1dc0}'..='\u{1dff}'
        | '\u{20d0}'..='\u{20ff}'
        | '\u{fe20}'..='\u{fe2f}' => {
            ('\u{400}'..='\u{52f}').contains(&base) && makes_another_cyrillic_letter(base, mark)
        }
        // The hamza and the madda of an alef are often omitted.
        '\u{653}'..='\u{655}' => base != '\u{627}',
        // Hebrew, Arabic and Syriac points.
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

/// `й`, `ї`, `ў`, `ѓ` and others are letters; the diaeresis of `ё`, stress marks and historic
/// abbreviation signs are ignored.
fn makes_another_cyrillic_letter(base: char, mark: char) -> bool {
    match mark {
        '\u{300}' | '\u{483}'..='\u{489}' => false,
        '\u{301}' => matches!(base, 'г' | 'Г' | 'к' | 'К'),
        '\u{308}' => !matches!(base, 'е' | 'Е'),
        _ => true,
    }
}

/// Returns whether the character is a jamo that was typed alone (`ㅋㅋ`, `ㅠㅠ`). Decomposed, it would
/// combine with adjacent jamo into other syllables.
fn is_single_jamo(letter: char) -> bool {
    ('\u{3131}'..='\u{318e}').contains(&letter)
}

/// Returns whether the character is invisible and separates nothing: soft hyphens, joiners,
/// direction marks, variation selectors. U+200B is not included, because it separates words.
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
