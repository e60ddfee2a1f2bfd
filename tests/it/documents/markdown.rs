//! What the tests need of Markdown: code blocks, headings, and cells of tables.

/// A fenced code block.
pub struct Block<'a> {
    pub language: &'a str,
    /// The number of the line that opens the block, from 1.
    pub first_line: usize,
    /// The number of the line that closes the block.
    pub last_line: usize,
    pub text: String,
}

/// Returns the code blocks of a document.
pub fn blocks(document: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in (1..).zip(document.lines()) {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                open = Some(Block {
                    language,
                    first_line: number,
                    last_line: number,
                    text: String::new(),
                });
            }
            (None, None) => {}
            (Some(block), Some(_)) => {
                block.last_line = number;
                blocks.extend(open.take());
            }
            (Some(block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
        }
    }
    assert!(open.is_none(), "a code block is not closed");
    blocks
}

/// Returns the lines of a document outside of code blocks, with their numbers from 1.
pub fn prose(document: &str) -> impl Iterator<Item = (usize, &str)> {
    let blocks = blocks(document);
    (1..).zip(document.lines()).filter(move |(number, _)| {
        !blocks
            .iter()
            .any(|block| (block.first_line..=block.last_line).contains(number))
    })
}

/// Returns the level and the text of a heading.
pub fn heading(line: &str) -> Option<(usize, &str)> {
    let text = line.trim_start_matches('#');
    let level = line.len() - text.len();
    let text = text.strip_prefix(' ')?;
    (1..=6).contains(&level).then(|| (level, text.trim()))
}

/// Returns the rows of the tables below a heading, up to the next heading, as cells. The rows above
/// the bodies of the tables are left out.
pub fn rows<'a>(document: &'a str, title: &str) -> Vec<Vec<&'a str>> {
    let mut lines: Vec<_> = prose(document)
        .map(|(_, line)| line)
        .skip_while(|line| heading(line).is_none_or(|(_, text)| text != title))
        .skip(1)
        .take_while(|line| heading(line).is_none())
        .collect();
    // Markdown has one line of dashes between the heads and the body of a table.
    let bodies = lines.iter().position(|line| line.starts_with("|---"));
    let bodies = bodies.unwrap_or_else(|| panic!("no table below {title:?}"));
    lines.drain(..=bodies);
    lines.into_iter().filter_map(cells).collect()
}

fn cells(row: &str) -> Option<Vec<&str>> {
    let row = row.strip_prefix('|')?.strip_suffix('|')?;
    Some(row.split('|').map(str::trim).collect())
}

/// Returns the code spans in a cell or a line.
pub fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}
