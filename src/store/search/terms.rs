//! Terms: the units of text that the stores' search indexes contain, and that queries look up.
//!
//! A text is split into words, runs and emoji. A word is a sequence of letters, digits and their
//! combining marks. A run is a sequence of characters of a script that is written without spaces
//! between words, or (like Korean) with particles attached to words. Finding the words in a run
//! would take a dictionary, and every dictionary is incomplete; so the index contains each
//! character and each pair of adjacent characters of a run.

use std::{collections::HashSet, ops::ControlFlow};

use unicode_normalization::char::is_combining_mark;

use super::{emoji, fold::fold};

/// The maximum number of indexed terms of a text, and their maximum size in bytes. With higher
/// limits, the index would be larger than the texts.
pub const TERMS: usize = 2_000;
const TERM_BYTES: usize = 16 << 10;
/// How many bytes of a text are processed at most, which limits the time as well.
const TEXT_BYTES: usize = 128 << 10;
/// The maximum number of characters of a word or emoji; the rest is ignored.
const LETTERS: usize = 64;
/// The maximum number of words, runs and emoji of a query; the rest is ignored.
const WANTED: usize = 32;
/// The maximum number of terms of a query that are looked up. A long run is compared with the text
/// of a message in any case.
const LOOKED_UP: usize = 64;

/// A folded part of a text.
#[derive(PartialEq, Eq, Hash)]
enum Part {
    Word(String),
    Run(String),
    Emoji(emoji::Emoji),
}

/// Returns the distinct terms of a text in the order of their first occurrence. Terms after the
/// first [`TERMS`] are not indexed.
pub fn terms(text: &str) -> Vec<String> {
    let mut known = HashSet::new();
    let (mut terms, mut bytes) = (Vec::new(), 0);
    let mut add = |term: &str| {
        if known.contains(term) {
            return ControlFlow::Continue(());
        }
        bytes += term.len();
        if terms.len() >= TERMS || bytes > TERM_BYTES {
            return ControlFlow::Break(());
        }
        known.insert(term.to_owned());
        terms.push(term.to_owned());
        ControlFlow::Continue(())
    };
    // At the limit, the terms added so far are kept.
    let _ = each_part(text, |part| match part {
        Part::Word(word) => add(&word),
        Part::Emoji(emoji) => {
            add(&emoji.plain)?;
            add(&emoji.exact)
        }
        Part::Run(run) => {
            let starts: Vec<_> = run
                .char_indices()
                .map(|(at, _)| at)
                .chain([run.len()])
                .collect();
            for ends in starts.windows(3) {
                add(&run[ends[0]..ends[1]])?;
                add(&run[ends[0]..ends[2]])?;
            }
            add(&run[starts[starts.len() - 2]..])
        }
    });
    terms
}

/// A parsed search query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Query {
    /// A message has to contain all of these.
    terms: Vec<String>,
    /// Runs that are longer than a term: a message that contains all their terms may not contain
    /// the run itself.
    phrases: Vec<String>,
}

impl Query {
    /// Parses the search text of a client. Only the first words are used.
    pub fn parse(text: &str) -> Self {
        let mut known = HashSet::new();
        let _ = each_part(text, |part| {
            known.insert(part);
            if known.len() < WANTED {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        let (mut terms, mut phrases) = (Vec::new(), Vec::new());
        for part in known {
            match part {
                Part::Word(word) => terms.push(word),
                Part::Emoji(emoji) => terms.push(emoji.exact),
                Part::Run(run) => {
                    let letters: Vec<_> = run.chars().collect();
                    terms.extend(letters.windows(letters.len().min(2)).map(String::from_iter));
                    phrases.extend((letters.len() > 2).then_some(run));
                }
            }
        }
        // Long terms are likely to be rare, and looking up rare terms first is faster.
        terms.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        terms.dedup();
        terms.truncate(LOOKED_UP);
        Self { terms, phrases }
    }

    /// Returns the terms to look up. If there are none, the query matches nothing.
    pub fn terms(&self) -> &[String] {
        &self.terms
    }

    /// Returns whether a match of all terms still has to be checked with
    /// [`has_all_phrases`](Self::has_all_phrases).
    pub fn has_phrases(&self) -> bool {
        !self.phrases.is_empty()
    }

    /// Returns whether a text that contains all terms matches the query.
    pub fn has_all_phrases(&self, text: &str) -> bool {
        let mut missing: Vec<_> = self.phrases.iter().collect();
        let _ = each_part(text, |part| {
            if let Part::Run(run) = part {
                missing.retain(|phrase| !run.contains(phrase.as_str()));
            }
            if missing.is_empty() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        missing.is_empty()
    }

    /// Returns whether the query will match a text once it is indexed.
    pub fn matches(&self, text: &str) -> bool {
        let terms: HashSet<_> = terms(text).into_iter().collect();
        !self.terms.is_empty()
            && self.terms.iter().all(|term| terms.contains(term))
            && self.has_all_phrases(text)
    }
}

/// Passes the parts of a text to `take`, until it returns `Break`.
fn each_part(text: &str, mut take: impl FnMut(Part) -> ControlFlow<()>) -> ControlFlow<()> {
    let text = &text[..text.floor_char_boundary(TEXT_BYTES)];
    let (mut begin, mut at) = (0, 0);
    while let Some(letter) = text[at..].chars().next() {
        match emoji::leading(&text[at..]) {
            Some((emoji, length)) => {
                each_word(&fold(&text[begin..at]), &mut take)?;
                take(Part::Emoji(emoji.shortened(LETTERS)))?;
                at += length;
                begin = at;
            }
            None => at += letter.len_utf8(),
        }
    }
    each_word(&fold(&text[begin..]), &mut take)
}

/// Passes the words and runs of a folded text to `take`.
fn each_word(text: &str, take: &mut impl FnMut(Part) -> ControlFlow<()>) -> ControlFlow<()> {
    let mut current = Part::Word(String::new());
    for letter in text.chars() {
        let is_mark = is_combining_mark(letter);
        match &mut current {
            // A zero-width space is optional between the words of a script without spaces.
            Part::Run(_) if letter == '\u{200b}' => {}
            Part::Word(piece) | Part::Run(piece) if is_mark && !piece.is_empty() => {
                piece.push(letter);
            }
            _ if !is_mark && !letter.is_alphanumeric() => current.end(take)?,
            Part::Run(run) if is_unspaced(letter) => run.push(letter),
            _ if is_unspaced(letter) => {
                current.end(take)?;
                current = Part::Run(letter.into());
            }
            Part::Word(word) => word.push(letter),
            _ => {
                current.end(take)?;
                current = Part::Word(letter.into());
            }
        }
    }
    current.end(take)
}

impl Part {
    /// Passes the current part to `take`, unless it is empty, and starts a new one.
    fn end(&mut self, take: &mut impl FnMut(Self) -> ControlFlow<()>) -> ControlFlow<()> {
        match std::mem::replace(self, Self::Word(String::new())) {
            Self::Word(word) if word.is_empty() => ControlFlow::Continue(()),
            Self::Word(word) => take(Self::Word(word.chars().take(LETTERS).collect())),
            part => take(part),
        }
    }
}

/// Returns whether the letter belongs to a script whose words are not separated by spaces.
fn is_unspaced(letter: char) -> bool {
    matches!(
        letter,
        // Thai, Lao
        '\u{e00}'..='\u{eff}'
            // Myanmar
            | '\u{1000}'..='\u{109f}'
            | '\u{a9e0}'..='\u{a9ff}'
            | '\u{aa60}'..='\u{aa7f}'
            // Hangul
            | '\u{1100}'..='\u{11ff}'
            | '\u{3130}'..='\u{318f}'
            | '\u{a960}'..='\u{a97f}'
            | '\u{ac00}'..='\u{d7ff}'
            // Khmer, Tai Le, New Tai Lue, Tai Tham, Balinese, Javanese, Tai Viet
            | '\u{1780}'..='\u{17ff}'
            | '\u{1950}'..='\u{19df}'
            | '\u{1a20}'..='\u{1aaf}'
            | '\u{1b00}'..='\u{1b7f}'
            | '\u{a980}'..='\u{a9df}'
            | '\u{aa80}'..='\u{aadf}'
            // Han, Hiragana, Katakana, Bopomofo
            | '\u{2e80}'..='\u{312f}'
            | '\u{31a0}'..='\u{31ff}'
            | '\u{3400}'..='\u{4dbf}'
            | '\u{4e00}'..='\u{9fff}'
            | '\u{f900}'..='\u{faff}'
            | '\u{1aff0}'..='\u{1b16f}'
            | '\u{20000}'..='\u{3ffff}'
            // Yi, Tangut, Khitan, Nüshu
            | '\u{a000}'..='\u{a4cf}'
            | '\u{16fe0}'..='\u{18d8f}'
            | '\u{1b170}'..='\u{1b2ff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_letters_and_digits_without_case_and_accents() {
        assert_eq!(
            terms("Crème BRÛLÉE, creme; 42x!"),
            ["creme", "brulee", "42x"]
        );
        assert_eq!(terms("E\u{301}te\u{301} été ÉTÉ"), ["ete"]);
        assert_eq!(
            terms("İstanbul ﬁn Ⅻ ｗｉｄｅ ISTANBUL ıstanbul"),
            ["istanbul", "fin", "xii", "wide"]
        );
        assert_eq!(terms("Straße STRASSE STRAẞE strasse"), ["strasse"]);
        assert_eq!(
            terms("Привет Ёлка май мои́"),
            ["привет", "елка", "май", "мои"]
        );
        assert_eq!(terms("ΟΔΟΣ οδός Οδοσ σοφός"), ["οδοσ", "σοφοσ"]);
        assert_eq!(
            terms("Łódź Đà Nẵng sønn cœur"),
            ["lodz", "da", "nang", "sonn", "coeur"]
        );
        assert_eq!(
            terms("\"* - () \0 ^: \u{200d}¤ \u{fe0f} \u{301} \u{200b}"),
            Vec::<String>::new()
        );
        assert_eq!(terms(&"x".repeat(100)), ["x".repeat(64)]);
        assert_eq!(
            terms("soft\u{ad}hyphen zero\u{200b}width"),
            ["softhyphen", "zero", "width"]
        );
    }

    #[test]
    fn a_mark_that_makes_another_letter_stays() {
        assert_eq!(terms("हिन्दी किताब"), ["हिन्दी", "किताब"]);
        assert_eq!(terms("தமிழ் বাংলা മലയാളം"), ["தமிழ்", "বাংলা", "മലയാളം"]);
        assert_eq!(terms("مُحَمَّد محمد أحمد احمد"), ["محمد", "احمد"]);
        assert_eq!(terms("שָׁלוֹם שלום"), ["שלום"]);
        assert_eq!(terms("ガ"), ["ガ"]);
        assert_eq!(terms("ｶﾞ か\u{3099}"), ["ガ", "が"]);
    }

    #[test]
    fn of_a_run_each_character_and_each_pair_is_a_term() {
        assert_eq!(terms("上海东"), ["上", "上海", "海", "海东", "东"]);
        assert_eq!(terms("ＡＢ社で3月"), ["ab", "社", "社で", "で", "3", "月"]);
        assert_eq!(terms("서울에"), ["서", "서울", "울", "울에", "에"]);
        assert_eq!(terms("ㅋㅠㅠ"), ["ㅋ", "ㅋㅠ", "ㅠ", "ㅠㅠ"]);
        assert_eq!(terms("ไทย"), ["ไ", "ไท", "ท", "ทย", "ย"]);
        assert_eq!(terms("ភា\u{200b}សា"), terms("ភាសា"));
    }

    #[test]
    fn an_emoji_is_a_term_with_and_without_its_skin_tone() {
        assert_eq!(terms("ok👍🏽!"), ["ok", "👍", "👍🏽"]);
        assert_eq!(terms("❤️ ❤ 1️⃣ 1\u{20e3}"), ["❤", "1\u{20e3}"]);
        assert_eq!(terms("🇩🇪🇫🇷"), ["🇩🇪", "🇫🇷"]);
        assert_eq!(terms("👨‍👩‍👧👩🏽‍💻"), ["👨‍👩‍👧", "👩‍💻", "👩🏽‍💻"]);
        assert_eq!(terms("👁️‍🗨️"), terms("👁‍🗨"));
        assert_eq!(terms("🏴󠁧󠁢󠁥󠁮󠁧󠁿 🏴󠁧󠁢󠁳󠁣󠁴󠁿").len(), 2);
    }

    #[test]
    fn what_is_indexed_of_a_text_is_bounded() {
        let text = (0..30_000)
            .map(|n| format!("w{n}"))
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(terms(&text).len(), TERMS);
        let text = (0..30_000)
            .map(|n| format!("{n:060}"))
            .collect::<Vec<_>>()
            .join(" ");
        assert!(terms(&text).iter().map(String::len).sum::<usize>() <= TERM_BYTES);
        assert_eq!(terms(&"👩\u{200d}".repeat(50_000)).len(), 1);
        assert_eq!(terms(&format!("{}late", "a ".repeat(TEXT_BYTES))), ["a"]);
        assert!(
            terms(&"é".repeat(TEXT_BYTES)).len() == 1,
            "cut between two characters"
        );
    }

    #[test]
    fn a_query_finds_all_its_words_and_each_run_whole() {
        for (text, query, found) in [
            ("我家在上海东边。", "上海", true),
            ("我家在上海东边。", "海", true),
            ("我家在上海东边。", "上海东边", true),
            ("海上有上下海", "上海", false),
            ("上海和海东", "上海东", false),
            ("two words", "words TWO", true),
            ("two words", "two wor", false),
            ("👍🏽", "👍", true),
            ("👍🏽", "👍🏽", true),
            ("👍🏽", "👍🏿", false),
            ("👍", "👍🏽", false),
            ("text", "", false),
            ("text", "?!", false),
        ] {
            assert_eq!(
                Query::parse(query).matches(text),
                found,
                "{query} in {text}"
            );
        }
    }
}
