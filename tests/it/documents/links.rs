//! The links of the documents: the files and headings that they name exist.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use crate::documents::{
    markdown::{heading, prose},
    project, read,
};

/// A link in a document.
struct Link {
    line: usize,
    target: String,
}

#[test]
fn every_relative_link_of_the_documents_resolves() {
    let mut anchors = BTreeMap::new();
    let (mut problems, mut checked) = (String::new(), 0);
    for document in documents() {
        for Link { line, target } in links(&read(&document)) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            if let Err(problem) = resolve(&document, &target, &mut anchors) {
                let document = document.display();
                writeln!(problems, "{document}:{line}: {target}: {problem}").unwrap();
            }
        }
    }
    assert!(problems.is_empty(), "\n{problems}");
    assert!(checked > 100, "only {checked} links were found");
}

fn documents() -> Vec<PathBuf> {
    let mut documents: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
        .into_iter()
        .chain(["SECURITY.md"])
        .map(PathBuf::from)
        .collect();
    for entry in fs::read_dir(project().join("docs")).unwrap() {
        let name = entry.unwrap().file_name();
        let document = Path::new("docs").join(name);
        if document.extension().is_some_and(|end| end == "md") {
            documents.push(document);
        }
    }
    documents
}

/// Checks that the target exists. `anchors` holds those of the documents read so far.
fn resolve(
    document: &Path,
    target: &str,
    anchors: &mut BTreeMap<PathBuf, Vec<String>>,
) -> Result<(), &'static str> {
    let (path, anchor) = match target.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor)),
        None => (target, None),
    };
    let file = match path {
        "" => document.to_owned(),
        _ => document.with_file_name(path),
    };
    if !project().join(&file).exists() {
        return Err("no such file");
    }
    let Some(anchor) = anchor else { return Ok(()) };
    if file.extension().is_none_or(|end| end != "md") {
        return Err("an anchor in a file that is no document");
    }
    let known = anchors
        .entry(file)
        .or_insert_with_key(|file| slugs(&read(file)));
    if known.iter().any(|slug| slug == anchor) {
        Ok(())
    } else {
        Err("no such heading")
    }
}

/// Returns the links outside of code, both `[text](target)` and `[label]: target`.
fn links(document: &str) -> Vec<Link> {
    let mut links = Vec::new();
    for (line, text) in prose(document) {
        // Links in code spans are examples. The text of a link may be a code span.
        let text: String = text.split('`').step_by(2).collect();
        let inline = text.split("](").skip(1).map(|rest| {
            let (target, _) = rest.split_once(')').expect("a link ends in its line");
            target
        });
        let definition = text
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("]: "))
            .map(|(_, target)| target.trim());
        links.extend(inline.chain(definition).map(|target| Link {
            line,
            target: target.to_owned(),
        }));
    }
    links
}

/// Returns the anchors that GitHub gives the headings of a document.
fn slugs(document: &str) -> Vec<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut slugs = Vec::new();
    for (_, text) in prose(document).filter_map(|(_, line)| heading(line)) {
        let slug = slug(text);
        let before = seen.entry(slug.clone()).or_default();
        slugs.push(match *before {
            0 => slug,
            count => format!("{slug}-{count}"),
        });
        *before += 1;
    }
    slugs
}

fn slug(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'))
        .map(|letter| if letter == ' ' { '-' } else { letter })
        .collect()
}

#[test]
fn headings_have_the_anchors_that_github_gives_them() {
    let document = "# `sync` & more\n## Stores\n```sh\n# no heading\n```\n## Stores\n#hashtag\n### v0.1: café_au-lait\n";
    assert_eq!(
        slugs(document),
        ["sync--more", "stores", "stores-1", "v01-café_au-lait"]
    );
}

#[test]
fn links_in_code_are_no_links() {
    let document = "a [b](c.md#d), `[e](f)` and [`g`](h)\n```md\n[i](j)\n```\n[k]: l.md\n";
    let targets: Vec<_> = links(document)
        .into_iter()
        .map(|link| (link.line, link.target))
        .collect();
    let expected = [(1, "c.md#d"), (1, "h"), (5, "l.md")];
    assert_eq!(
        targets,
        expected.map(|(line, text)| (line, text.to_owned()))
    );
}
