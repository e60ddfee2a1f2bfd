//! Validation of texts from clients: which texts count as empty, and which characters a name may
//! contain.

use unicode_normalization::char::is_combining_mark;

/// The maximum length of the name of a user or a room, in characters. Names are repeated with every
/// message, in responses and events, so they must not be as long as a message. Users with a longer
/// name from before this limit keep it.
pub const MAX_NAME: usize = 200;
/// The error of an empty text.
pub const EMPTY: &str = "string cannot be empty";
/// The error of a name that is too long.
pub const NAME_LENGTH: &str = "please provide 1 to 200 characters";
/// The error of a name with characters that are not allowed.
pub const NAME_CHARACTERS: &str = "please leave out control characters, line breaks and characters that override the direction of text";

/// Returns the error text of an invalid name of a user or a room; `None` if it is valid.
#[must_use]
pub fn name_flaw(name: &str) -> Option<&'static str> {
    // A combining mark needs a base letter; alone it would be drawn over the text next to the name.
    if name
        .chars()
        .all(|c| is_invisible(c) || is_combining_mark(c))
    {
        return Some(EMPTY);
    }
    // `nth` stops counting at the limit.
    if name.chars().nth(MAX_NAME).is_some() {
        return Some(NAME_LENGTH);
    }
    name.chars().any(is_disruptive).then_some(NAME_CHARACTERS)
}

/// Returns whether a text shows nothing: it is empty, or has only white space and other invisible
/// characters.
#[must_use]
pub fn is_blank(text: &str) -> bool {
    text.chars().all(is_invisible)
}

/// Returns whether JavaScript's `trim` treats a character as white space (ECMA-262, 12.2 and 12.3).
#[must_use]
pub fn is_js_space(c: char) -> bool {
    c == '\u{feff}' || (c.is_whitespace() && c != '\u{85}')
}

/// Returns whether a character is invisible or drawn as a blank: white space, controls, default
/// ignorable code points (Unicode 16, `DerivedCoreProperties.txt`), other format characters without
/// a glyph, noncharacters, and letters and symbols that are blank by design.
fn is_invisible(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c,
            // Default ignorable.
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
            // Format: interlinear annotation, Egyptian hieroglyphs.
            | '\u{fff9}'..='\u{fffb}' | '\u{13430}'..='\u{1343f}'
            // Blank: Braille pattern, null notehead, Khitan filler.
            | '\u{2800}' | '\u{1d159}' | '\u{16fe4}'
            | '\u{fdd0}'..='\u{fdef}')
        // The last two code points of each plane are noncharacters.
        || u32::from(c) & 0xfffe == 0xfffe
}

/// Returns whether a character affects the text around a name: controls and line breaks;
/// embeddings, overrides and isolates of direction (UAX #9) and their deprecated relatives;
/// interlinear annotation. Joiners, and marks that only set the direction of adjacent text, are
/// part of names in many scripts and are allowed.
fn is_disruptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_shows_nothing_is_blank() {
        for blank in [
            "",
            " ",
            "\t\r\n",
            "\0",
            "\u{7f}",
            "\u{85}",
            "\u{a0}\u{3000}",
            "\u{ad}",
            "\u{200b}",
            "\u{200d}\u{200c}",
            "\u{2060}",
            "\u{2800}",
            "\u{3164}",
            "\u{115f}",
            "\u{1160}",
            "\u{ffa0}",
            "\u{feff}",
            "\u{202e}\u{202c}",
            "\u{2066}\u{2069}",
            "\u{200e}",
            "\u{34f}",
            "\u{fe0f}",
            "\u{e0020}",
            "\u{e0100}",
            "\u{180e}",
            "\u{fff9}",
            "\u{ffff}",
            "\u{1d159}",
        ] {
            assert!(is_blank(blank), "{blank:?}");
            assert_eq!(name_flaw(blank), Some(EMPTY), "{blank:?}");
        }
        for shown in [
            "a",
            ".",
            "\u{200b}a",
            "👩\u{200d}💻",
            "❤\u{fe0f}",
            "\u{301}",
            "\u{20e3}",
            "\u{fffd}",
            "ㅤa",
            "⠁",
            "\u{e000}",
        ] {
            assert!(!is_blank(shown), "{shown:?}");
        }
    }

    #[test]
    fn a_name_may_be_of_any_script_and_may_not_disturb_its_surroundings() {
        for right in [
            "Ada",
            "王",
            "Élodie 🎉",
            "E\u{301}lodie",
            "می\u{200c}خواهم",
            "क\u{94d}\u{200d}ष",
            "👩\u{200d}👧\u{200d}👦",
            "❤\u{fe0f}",
            "דוד\u{200f}!",
            "\u{61c}علي",
            "O’Neil-Smith",
            "🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
            "ᄒ\u{1161}ᆫ",
            "ก\u{e34}",
        ] {
            assert_eq!(name_flaw(right), None, "{right:?}");
        }
        for wrong in [
            "a\u{202e}b",
            "a\u{202a}",
            "\u{2066}a",
            "a\u{2069}",
            "a\0",
            "a\tb",
            "a\nb",
            "a\u{85}b",
            "a\u{2028}b",
            "a\u{2029}",
            "\u{1b}[31ma",
            "a\u{7f}",
            "a\u{206a}",
            "a\u{fff9}",
        ] {
            assert_eq!(name_flaw(wrong), Some(NAME_CHARACTERS), "{wrong:?}");
        }
        for empty in ["\u{301}", " \u{301}\u{308}", "\u{20e3}\u{fe0f}"] {
            assert_eq!(name_flaw(empty), Some(EMPTY), "{empty:?}");
        }
        assert_eq!(name_flaw(&"é".repeat(MAX_NAME)), None);
        assert_eq!(name_flaw(&"é".repeat(MAX_NAME + 1)), Some(NAME_LENGTH));
    }
}
