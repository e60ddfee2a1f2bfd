//! The commands of the documents: each block of `sh` runs, and prints what the block of `json`
//! below it says, or nothing.

use std::{
    fmt::Write as _,
    fs,
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    documents::{
        markdown::{Block, blocks},
        read,
    },
    support::{
        databases::Kind,
        harness::{PATIENCE, TestServer},
    },
};

/// The address of the server in the documents.
const ADDRESS: &str = "http://127.0.0.1:3000";
/// The line that ends the output of a block.
const END: &str = "--- end of block ---";

/// A block of commands with the answer that the document shows.
struct Step {
    /// The number of the line that opens the block.
    line: usize,
    commands: String,
    /// What the last command answers. None if the block prints nothing.
    answer: Option<Value>,
    /// Whether the document has started the server in secure mode before.
    is_secure: bool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_readme_answer_what_it_shows() {
    commands_answer_what_is_shown("README.md").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_tutorial_answer_what_it_shows() {
    commands_answer_what_is_shown("docs/tutorial.md").await;
}

async fn commands_answer_what_is_shown(file: &str) {
    let steps = steps(&read(file));
    assert!(steps.iter().any(|step| step.answer.is_some()));
    let output = run(&steps).await;
    let mut outputs: Vec<_> = output.split(&format!("\n{END}\n")).collect();
    // Nothing, or the output of a block that did not end.
    outputs.pop();
    let mut problems = String::new();
    for (index, step) in steps.iter().enumerate() {
        let problem = match outputs.get(index) {
            Some(output) => difference(step, output.trim()),
            None => Some("did not run to its end".into()),
        };
        if let Some(problem) = problem {
            writeln!(problems, "{file}:{}: {problem}", step.line).unwrap();
        }
    }
    assert!(problems.is_empty(), "\n{problems}");
}

/// Returns the blocks of commands of a document.
fn steps(document: &str) -> Vec<Step> {
    let blocks = blocks(document);
    let mut steps = Vec::new();
    let mut is_secure = false;
    for (index, block) in blocks.iter().enumerate() {
        is_secure |= block.language == "console" && block.text.contains("CAUSERIE_ACCESS=secure");
        if block.language == "sh" {
            steps.push(Step {
                line: block.first_line,
                commands: block.text.clone(),
                answer: blocks
                    .get(index + 1)
                    .and_then(|next| answer_of(block, next)),
                is_secure,
            });
        }
    }
    let shown = blocks.iter().filter(|block| block.language == "json");
    let compared = steps.iter().filter(|step| step.answer.is_some());
    assert_eq!(
        compared.count(),
        shown.count(),
        "every answer is below its command"
    );
    steps
}

/// Returns the answer in the next block, if it is directly below.
fn answer_of(block: &Block, next: &Block) -> Option<Value> {
    let is_below = next.language == "json" && next.first_line == block.last_line + 2;
    is_below.then(|| {
        serde_json::from_str(&next.text)
            .unwrap_or_else(|error| panic!("line {}: {error}", next.first_line))
    })
}

/// Runs the blocks in one bash, so that variables and functions persist, and returns their output.
/// It ends early if the commands take too long.
async fn run(steps: &[Step]) -> String {
    let open = TestServer::start(Kind::Sqlite).await;
    let secure = TestServer::with(Kind::Sqlite, &[("CAUSERIE_ACCESS", "secure")]).await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("output");
    let output = fs::File::create(&file).unwrap();
    let mut command = Command::new("bash");
    command
        .args(["-c", &script(steps, &open.base, &secure.base)])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output);
    let mut command = tokio::process::Command::from(command);
    let mut bash = command.kill_on_drop(true).spawn().unwrap();
    if let Ok(status) = tokio::time::timeout(PATIENCE, bash.wait()).await {
        status.unwrap();
    }
    String::from_utf8(fs::read(file).unwrap()).unwrap()
}

fn script(steps: &[Step], open: &str, secure: &str) -> String {
    let mut script = String::new();
    let mut is_secure = false;
    for step in steps {
        let base = if step.is_secure { secure } else { open };
        if step.is_secure != is_secure {
            is_secure = step.is_secure;
            // A reader restarts the server on the same port.
            writeln!(script, "HOST={base}").unwrap();
        }
        let commands = step.commands.replace(ADDRESS, base);
        writeln!(script, "{commands}echo; echo '{END}'").unwrap();
    }
    script
}

fn difference(step: &Step, output: &str) -> Option<String> {
    match (&step.answer, serde_json::from_str::<Value>(output)) {
        (None, _) => (!output.is_empty()).then(|| format!("should print nothing: {output}")),
        (Some(answer), Ok(output)) => {
            (!is_alike(answer, &output)).then(|| format!("answers {output}, not {answer}"))
        }
        (Some(_), Err(_)) => Some(format!("should print an answer: {output:?}")),
    }
}

/// Returns whether an answer is the documented one, but for what differs in each run.
fn is_alike(documented: &Value, answered: &Value) -> bool {
    match (documented, answered) {
        (Value::Object(documented), Value::Object(answered)) => {
            documented.len() == answered.len()
                && documented
                    .iter()
                    .all(|(key, value)| answered.get(key).is_some_and(|it| is_alike(value, it)))
        }
        (Value::Array(documented), Value::Array(answered)) => {
            documented.len() == answered.len()
                && documented
                    .iter()
                    .zip(answered)
                    .all(|(one, other)| is_alike(one, other))
        }
        (Value::String(documented), Value::String(answered)) if documented != answered => {
            let kind = varying(documented);
            kind.is_some() && kind == varying(answered)
        }
        _ => documented == answered,
    }
}

/// What differs in each run.
#[derive(PartialEq, Eq)]
enum Varying {
    Id,
    Time,
    /// Documents show the beginning of a token, with an ellipsis.
    Token,
    UserAgent,
}

fn varying(text: &str) -> Option<Varying> {
    let is_id = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_time = text.len() == 24 && text.as_bytes()[10] == b'T' && text.ends_with('Z');
    let is_token = text.ends_with('…') || (text.len() >= 100 && !text.contains(' '));
    [
        (is_id, Varying::Id),
        (is_time, Varying::Time),
        (is_token, Varying::Token),
        (text.starts_with("curl/"), Varying::UserAgent),
    ]
    .into_iter()
    .find_map(|(is_so, kind)| is_so.then_some(kind))
}

#[test]
fn an_answer_differs_from_the_documented_one_by_a_key_a_type_a_number_or_a_text() {
    let documented =
        r#"{"_id": "01a22f085a0072deb553b748c8a6cee6", "seq": [1], "message": "none"}"#;
    let documented = serde_json::from_str(documented).unwrap();
    let is_alike = |answered| is_alike(&documented, &serde_json::from_str(answered).unwrap());
    assert!(is_alike(
        r#"{"seq": [1], "message": "none", "_id": "01a22f085a127333b48eb64d7f390db0"}"#
    ));
    for other in [
        r#"{"_id": "01a22f085a0072deb553b748c8a6cee6", "seq": [1], "message": "none", "code": 1}"#,
        r#"{"_id": "01a22f085a0072deb553b748c8a6cee6", "seq": [1]}"#,
        r#"{"_id": 1, "seq": [1], "message": "none"}"#,
        r#"{"_id": "Ada", "seq": [1], "message": "none"}"#,
        r#"{"_id": "01a22f085a0072deb553b748c8a6cee6", "seq": [2], "message": "none"}"#,
        r#"{"_id": "01a22f085a0072deb553b748c8a6cee6", "seq": [1, 2], "message": "none"}"#,
        r#"{"_id": "01a22f085a0072deb553b748c8a6cee6", "seq": [1], "message": "other"}"#,
    ] {
        assert!(!is_alike(other), "{other}");
    }
}
