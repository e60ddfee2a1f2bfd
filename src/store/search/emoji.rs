//! Finds complete emoji in a text: with joiners, skin tones, and both halves of a flag.

const JOINER: char = '\u{200d}';
const KEYCAP: char = '\u{20e3}';

/// An emoji without variation selectors (U+FE0E, U+FE0F).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Emoji {
    /// The emoji with its skin tones.
    pub exact: String,
    /// The emoji without skin tones.
    pub plain: String,
}

impl Emoji {
    /// Truncates both forms to at most `most` characters.
    pub fn shortened(self, most: usize) -> Self {
        let shorten = |emoji: String| emoji.chars().take(most).collect();
        Self {
            exact: shorten(self.exact),
            plain: shorten(self.plain),
        }
    }

    fn push(&mut self, letter: char) {
        self.exact.push(letter);
        self.plain.push(letter);
    }
}

/// Returns the emoji at the start of a text, and its length in bytes.
pub fn leading(text: &str) -> Option<(Emoji, usize)> {
    let first = text.chars().next()?;
    match first {
        '0'..='9' | '#' | '*' => keycap(first, text),
        _ if first.is_ascii() => None,
        _ if is_half_flag(first) => Some(flag(first, text)),
        _ if is_pictograph(first) => Some(sequence(text)),
        _ => None,
    }
}

fn keycap(first: char, text: &str) -> Option<(Emoji, usize)> {
    let length = text
        .char_indices()
        .skip(1)
        .find(|(_, next)| !is_variant(*next))
        .filter(|(_, next)| *next == KEYCAP)?
        .0;
    Some((
        alike(format!("{first}{KEYCAP}")),
        length + KEYCAP.len_utf8(),
    ))
}

fn flag(first: char, text: &str) -> (Emoji, usize) {
    let flag: String = text
        .chars()
        .take(2)
        .take_while(|half| is_half_flag(*half))
        .collect();
    let length = flag.len().max(first.len_utf8());
    (alike(flag), length)
}

fn alike(emoji: String) -> Emoji {
    Emoji {
        exact: emoji.clone(),
        plain: emoji,
    }
}

/// Parses a pictograph and everything joined to it.
fn sequence(text: &str) -> (Emoji, usize) {
    let (mut emoji, mut length) = (alike(String::new()), 0);
    let mut letters = text.char_indices().peekable();
    while let Some((at, pictograph)) = letters.next() {
        length = at + pictograph.len_utf8();
        emoji.push(pictograph);
        while let Some((at, part)) = letters.next_if(|(_, letter)| is_part(*letter)) {
            length = at + part.len_utf8();
            if is_skin_tone(part) {
                emoji.exact.push(part);
            } else if !is_variant(part) {
                emoji.push(part);
            }
        }
        let mut ahead = letters.clone();
        let joins = ahead.next().is_some_and(|(_, next)| next == JOINER)
            && ahead.peek().is_some_and(|(_, next)| is_pictograph(*next));
        if !joins {
            break;
        }
        emoji.push(JOINER);
        letters = ahead;
    }
    (emoji, length)
}

/// Returns whether the character belongs to the pictograph before it.
fn is_part(letter: char) -> bool {
    is_variant(letter) || is_skin_tone(letter) || ('\u{e0020}'..='\u{e007f}').contains(&letter)
}

fn is_variant(letter: char) -> bool {
    matches!(letter, '\u{fe0e}' | '\u{fe0f}')
}

fn is_skin_tone(letter: char) -> bool {
    ('\u{1f3fb}'..='\u{1f3ff}').contains(&letter)
}

fn is_half_flag(letter: char) -> bool {
    ('\u{1f1e6}'..='\u{1f1ff}').contains(&letter)
}

/// Matches whole blocks, to include emoji that Unicode adds later. Circled and squared letters
/// count as letters.
fn is_pictograph(letter: char) -> bool {
    matches!(
        letter,
        '\u{a9}' | '\u{ae}' | '\u{203c}' | '\u{2049}' | '\u{3030}' | '\u{303d}'
            | '\u{2194}'..='\u{21ff}'
            | '\u{2300}'..='\u{23ff}'
            | '\u{25a0}'..='\u{27bf}'
            | '\u{2900}'..='\u{297f}'
            | '\u{2b00}'..='\u{2bff}'
            | '\u{1f000}'..='\u{1f0ff}'
            | '\u{1f170}'..='\u{1f18f}'
            | '\u{1f191}'..='\u{1f19a}'
            | '\u{1f300}'..='\u{1faff}'
    )
}
