//! The docker-compose files: docker-compose accepts them, and they match what docs/operations.md says.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
    time::Duration,
};

use causerie::config::{AccessMode, Config};
use yaml_rust2::{Yaml, YamlLoader};

/// The Python packages that make up docker-compose, used when it is not installed.
const REQUIREMENTS: &str = "tests/compose/requirements.txt";
/// Newer Python versions lack two of the modules that docker-compose uses: `setuptools` replaces
/// `distutils`, and `shlex` replaces `pipes`.
const START: &str = r#"
import setuptools, shlex, sys
sys.modules["pipes"] = shlex
from compose.cli.main import main
main()
"#;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(project().join(file)).unwrap()
}

fn run(command: &mut Command) -> Option<Output> {
    command
        .current_dir(project())
        .stdin(Stdio::null())
        .output()
        .ok()
}

/// Returns a docker-compose that works without a Docker engine: the installed one, or one that is
/// downloaded once.
fn docker_compose() -> Command {
    for words in [&["docker-compose"][..], &["docker", "compose"]] {
        let command = || {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]);
            command
        };
        if run(command().arg("version")).is_some_and(|output| output.status.success()) {
            return command();
        }
    }
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", fetched()).args(["-c", START]);
    command
}

fn fetched() -> PathBuf {
    let target = project().join("target");
    let folder = target.join("docker-compose");
    fs::create_dir_all(&target).unwrap();
    // Several test processes may need it at the same time.
    let lock = fs::File::create(target.join("docker-compose.lock")).unwrap();
    lock.lock().unwrap();
    // Records the requirements of the installation. It is written last.
    let made_of = folder.join("requirements.txt");
    if fs::read_to_string(&made_of).ok() != Some(read(REQUIREMENTS)) {
        // Left over from a failed attempt, or from other requirements.
        let _ = fs::remove_dir_all(&folder);
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "--quiet",
            "install",
            "--no-deps",
            "-r",
            REQUIREMENTS,
            "--target",
        ])
        .arg(&folder);
        let output = run(&mut pip)
            .expect("there is no docker-compose, and fetching one needs Python with pip");
        assert!(
            output.status.success(),
            "fetching docker-compose failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        fs::copy(project().join(REQUIREMENTS), made_of).unwrap();
    }
    folder
}

/// Returns the merged configuration as docker-compose parses it.
fn together(files: &[&str]) -> Yaml {
    let named = files.iter().flat_map(|file| ["-f", file]);
    let output = run(docker_compose().args(named).arg("config")).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    YamlLoader::load_from_str(&String::from_utf8(output.stdout).unwrap())
        .unwrap()
        .remove(0)
}

fn understood() -> &'static Yaml {
    static UNDERSTOOD: OnceLock<Yaml> = OnceLock::new();
    UNDERSTOOD.get_or_init(|| together(&["docker-compose.yml"]))
}

/// Returns the settings of the server in its container, including those of the image.
fn settings(compose: &Yaml) -> Config {
    let environment = compose["services"]["causerie"]["environment"]
        .as_hash()
        .unwrap();
    let mut settings = HashMap::from([("CAUSERIE_LISTEN".to_owned(), "0.0.0.0:3000".to_owned())]);
    settings.extend(environment.iter().map(|(name, value)| {
        (
            name.as_str().unwrap().to_owned(),
            value.as_str().unwrap().to_owned(),
        )
    }));
    Config::load(None, &settings).unwrap()
}

fn service(name: &str) -> &'static Yaml {
    &understood()["services"][name]
}

fn list(yaml: &Yaml) -> &[Yaml] {
    yaml.as_vec().map_or(&[], Vec::as_slice)
}

fn texts(yaml: &Yaml) -> Vec<&str> {
    list(yaml)
        .iter()
        .map(|text| text.as_str().unwrap())
        .collect()
}

/// Formats a port or a volume as one string. Docker-compose 1 prints it so, version 2 prints its
/// parts.
fn short(entry: &Yaml, parts: &[&str]) -> String {
    let part = |name: &&str| match &entry[*name] {
        Yaml::Integer(number) => number.to_string(),
        text => text
            .as_str()
            .unwrap_or_else(|| panic!("{name} in {entry:?}"))
            .to_owned(),
    };
    let text = entry.as_str().map(|text| {
        text.trim_end_matches("/tcp")
            .trim_end_matches(":rw")
            .to_owned()
    });
    text.unwrap_or_else(|| parts.iter().map(part).collect::<Vec<_>>().join(":"))
}

#[test]
fn compose_starts_the_server_once_the_replica_set_is_ready() {
    let names: Vec<_> = understood()["services"]
        .as_hash()
        .unwrap()
        .keys()
        .map(|name| name.as_str().unwrap())
        .collect();
    assert_eq!(names, ["causerie", "mongodb"]);
    let (server, database) = (service("causerie"), service("mongodb"));
    assert_eq!(
        server["environment"]["CAUSERIE_DATABASE"].as_str(),
        Some("mongodb://mongodb:27017/causerie?replicaSet=rs0")
    );
    assert_eq!(
        server["depends_on"]["mongodb"]["condition"].as_str(),
        Some("service_healthy")
    );
    assert_eq!(
        texts(&database["command"]),
        ["mongod", "--replSet", "rs0", "--bind_ip_all"]
    );
    let check = texts(&database["healthcheck"]["test"]).pop().unwrap();
    for part in [
        "rs.initiate",
        r#""rs0""#,
        r#"host: "mongodb:27017""#,
        "isWritablePrimary",
    ] {
        assert!(check.contains(part), "{part} in {check}");
    }
    let (name, version) = database["image"].as_str().unwrap().split_once(':').unwrap();
    assert!(
        name == "mongo" && version.split('.').count() > 1,
        "fixes are taken up unasked, but no new MongoDB"
    );
}

#[test]
fn compose_publishes_ports_on_this_machine_only() {
    let ports = list(&service("causerie")["ports"]);
    let published: Vec<_> = ports
        .iter()
        .map(|port| short(port, &["host_ip", "published", "target"]))
        .collect();
    assert_eq!(published, ["127.0.0.1:3000:3000"]);
    assert_eq!(list(&service("mongodb")["ports"]), []);
    for name in ["causerie", "mongodb"] {
        assert!(
            service(name)["network_mode"].is_badvalue(),
            "{name} is not in the network of the machine"
        );
    }
}

#[test]
fn compose_uses_secure_mode_unless_open_mode_is_requested() {
    let secure = settings(understood());
    assert_eq!(
        (secure.access, secure.allow_open_network),
        (AccessMode::Secure, false)
    );
    let both = together(&["docker-compose.yml", "docker-compose.open.yml"]);
    let open = settings(&both);
    assert_eq!(
        (open.access, open.allow_open_network),
        (AccessMode::Open, true)
    );
    assert_eq!(open.database.reveal(), secure.database.reveal());
    assert_eq!(
        both["services"]["causerie"]["ports"],
        understood()["services"]["causerie"]["ports"],
        "still from this machine only"
    );
    for config in [secure, open] {
        assert_eq!(
            config.listen.to_string(),
            "0.0.0.0:3000",
            "on all addresses of the container"
        );
    }
}

#[test]
fn messages_survive_the_containers() {
    let volumes = list(&service("mongodb")["volumes"]);
    let volumes: Vec<_> = volumes
        .iter()
        .map(|volume| short(volume, &["source", "target"]))
        .collect();
    assert_eq!(volumes, ["mongodb:/data/db"]);
    assert!(!understood()["volumes"]["mongodb"].is_badvalue());
}

#[test]
fn compose_services_have_health_checks_restarts_and_a_grace_period() {
    for name in ["causerie", "mongodb"] {
        assert_eq!(
            service(name)["restart"].as_str(),
            Some("unless-stopped"),
            "{name}"
        );
        assert_eq!(
            texts(&service(name)["healthcheck"]["test"])[0],
            "CMD",
            "{name}"
        );
    }
    assert_eq!(
        texts(&service("causerie")["healthcheck"]["test"]),
        ["CMD", "causerie", "--health"]
    );
    let grace = service("causerie")["stop_grace_period"]
        .as_str()
        .unwrap()
        .strip_suffix('s')
        .unwrap()
        .parse()
        .unwrap();
    let shutdown: Duration = Config::load(None, &HashMap::new())
        .unwrap()
        .http
        .shutdown_timeout_ms
        .into();
    assert!(
        Duration::from_secs(grace) > shutdown + Duration::from_secs(2),
        "{grace} s for more than {shutdown:?}"
    );
}

#[test]
fn the_server_container_has_few_privileges() {
    let server = service("causerie");
    assert_eq!(server["read_only"].as_bool(), Some(true));
    assert_eq!(texts(&server["cap_drop"]), ["ALL"]);
    assert_eq!(texts(&server["security_opt"]), ["no-new-privileges:true"]);
    assert!(
        server["privileged"].is_badvalue() && server["user"].is_badvalue(),
        "it runs as the user of the image"
    );
}

#[test]
fn the_image_uses_the_required_rust_version_and_an_unprivileged_user() {
    let (manifest, dockerfile) = (read("Cargo.toml"), read("Dockerfile"));
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = \"")?.strip_suffix('"'))
        .unwrap();
    assert!(dockerfile.contains(&format!("FROM rust:{version}-slim-bookworm AS build")));
    let (_, image) = dockerfile.rsplit_once("\nFROM ").unwrap();
    assert!(
        image.starts_with("debian:bookworm-slim\n"),
        "of the same Debian as the build"
    );
    let user = image
        .lines()
        .filter_map(|line| line.strip_prefix("USER "))
        .next_back();
    assert!(
        image.contains("\nRUN useradd ") && user == Some("causerie"),
        "{user:?}"
    );
    for line in [
        "\nHEALTHCHECK ",
        " CMD [\"causerie\", \"--health\"]\n",
        "\nENTRYPOINT [\"causerie\"]\n",
    ] {
        assert!(image.contains(line), "{line}");
    }
}

#[test]
fn the_docker_ignore_file_lets_the_sources_of_the_image_through() {
    let (dockerfile, ignored) = (read("Dockerfile"), read(".dockerignore"));
    let copied = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .filter(|line| !line.starts_with("--from="));
    let mut sources: Vec<_> = copied
        .flat_map(|line| line.split(' ').rev().skip(1))
        .collect();
    let mut let_through: Vec<_> = ignored
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .collect();
    sources.sort_unstable();
    let_through.sort_unstable();
    assert_eq!(sources, let_through);
    for source in sources {
        assert!(project().join(source).exists(), "{source}");
    }
}
