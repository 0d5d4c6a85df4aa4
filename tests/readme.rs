//! The README, read by a program as a new user reads it: its YAML is applied, its commands are run, in its order.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use duosuan_embedded::{Tool, build, kubernetes_version};
use duosuan_tests::binary::binary;
use tempfile::TempDir;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

/// The fenced blocks of a language, in order.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(of) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            if of == language {
                blocks.push(block.join("\n") + "\n");
            }
        }
    }
    blocks
}

fn commands(text: &str) -> Vec<String> {
    blocks(text, "sh")
        .iter()
        .flat_map(|block| block.lines())
        .map(str::to_owned)
        .collect()
}

/// A running `duosuan up`, killed at the end of the test however it ends; all that it started ends with it.
struct Up {
    child: Child,
    kubeconfig: String,
}

impl Up {
    fn start(binary: &Path, dir: &Path) -> Up {
        let mut command = Command::new(binary);
        command.args(["up", "--nodes", "20", "--dir"]).arg(dir);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let mut up = Up {
            child,
            kubeconfig: String::new(),
        };
        let mut lines = BufReader::new(stdout).lines();
        let mut exports = lines.by_ref().filter_map(|line| {
            let line = line.unwrap();
            Some(line.strip_prefix("export KUBECONFIG=")?.to_owned())
        });
        up.kubeconfig = exports.next().expect("it says KUBECONFIG before it ends");
        // What it says from now on is nobody's business, and must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        up
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Runs a line of the README as a shell would, with kubectl and helm of the version that the control plane has.
fn run(line: &str, folder: &Path, kubeconfig: &str, path: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", line])
        .current_dir(folder)
        .env("KUBECONFIG", kubeconfig)
        .env("PATH", path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {}\n{said}", output.status);
    said
}

#[test]
fn every_command_of_the_readme_does_what_it_says() {
    let text = readme();
    let yaml = blocks(&text, "yaml");
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("hello.yaml"), &yaml[0]).unwrap();
    let kubectl = build(Tool::Kubectl, &mut |_| ()).unwrap();
    let helm = build(Tool::Helm, &mut |_| ()).unwrap();
    let (kubectl, helm) = (kubectl.parent().unwrap(), helm.parent().unwrap());
    let path = format!(
        "{}:{}:{}",
        kubectl.display(),
        helm.display(),
        std::env::var("PATH").unwrap()
    );
    // In the test's profile: what is tried is the command, not its speed.
    let binary = binary("duosuan").unwrap();
    let data = TempDir::new().unwrap();
    let up = Up::start(&binary, data.path());

    let mut said = Vec::new();
    for line in commands(&text) {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            // The one that runs beside all the others.
            ["cargo", "run", "--release", "--", "up"] => {}
            // This very run, and the trace, which is tried with the rest of `up`.
            ["tests/run"] => assert!(root().join("tests/run").is_file()),
            // Where no machine may boot, whoever starts the tests says so.
            ["tests/vm/run", ..] if std::env::var_os("DUOSUAN_NO_VM").is_some() => {}
            ["tests/vm/run", arguments @ ..] => {
                let program = duosuan_tests::binary::binary("vm-run").unwrap();
                let line = format!("{} {}", program.display(), arguments.join(" "));
                said.push((line.clone(), run(&line, &root(), "", &path)));
            }
            [
                "cargo",
                "run",
                "--release",
                "--",
                "up",
                "--trace",
                "openb",
                "--once",
                "--json",
            ] => {}
            ["cargo", "run", "--release", "--", "up", "--kubeconfig", "FILE"] => {
                let line = format!("{} up --once --kubeconfig {}", binary.display(), up.kubeconfig);
                said.push((line.clone(), run(&line, folder.path(), "", &path)));
            }
            ["cargo", "run", "--release", "--", "simulate", arguments @ ..] => {
                let line = format!("{} simulate {}", binary.display(), arguments.join(" "));
                said.push((line.clone(), run(&line, &root(), "", &path)));
            }
            ["cargo", "run", "--release", "--", "explain", arguments @ ..] => {
                let line = format!("{} explain {}", binary.display(), arguments.join(" "));
                said.push((line.clone(), run(&line, &root(), &up.kubeconfig, &path)));
            }
            ["cargo", "run", "--release", "--", arguments @ ..] => {
                let line = format!("{} {}", binary.display(), arguments.join(" "));
                said.push((line.clone(), run(&line, folder.path(), "", &path)));
            }
            ["kubectl", ..] => said.push((line.clone(), run(&line, folder.path(), &up.kubeconfig, &path))),
            // What it installs is applied to a server in the chart's own test; here the definitions are there already.
            ["helm", "install", arguments @ ..] => {
                let line = format!(
                    "helm template {} --kube-version {}",
                    arguments.join(" "),
                    kubernetes_version()
                );
                said.push((line.clone(), run(&line, &root(), &up.kubeconfig, &path)));
            }
            _ => panic!("the README has a command that this test does not know: {line}"),
        }
    }
    let of = |start: &str| &said.iter().find(|(line, _)| line.starts_with(start)).expect(start).1;
    let listed = of("kubectl get duosuan");
    for kind in [
        "queue.duosuan.io/research",
        "capacityclaim.duosuan.io/hello",
        "nodereport.duosuan.io/",
    ] {
        assert!(listed.contains(kind), "{kind}: {listed}");
    }
    let described = of("kubectl describe");
    assert!(described.contains("Running"), "{described}");
    assert!(of("kubectl explain").contains("count"));
    if let Some((_, said)) = said.iter().find(|(line, _)| line.contains("vm-run")) {
        let line = said.lines().find(|line| line.starts_with('{')).expect(said);
        let figures: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&figures["case"], &figures["ok"]),
            (&"stop".into(), &true.into()),
            "{said}"
        );
        assert_eq!(figures["restored"], true, "{said}");
        assert!(figures["rss_mib"].as_f64().is_some_and(|mib| mib > 0.0), "{said}");
    }
    let explained = |of: &str| &said.iter().find(|(line, _)| line.contains(of)).expect(of).1;
    let live = explained(" explain hello");
    assert!(live.contains("Claim default/hello, queue research: runs"), "{live}");
    let offline = explained(" explain lab/pretrain -f");
    assert!(offline.contains("2 gpu less per pod"), "{offline}");
}

#[test]
fn what_the_readme_links_to_is_there() {
    let text = readme();
    let links: Vec<&str> = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .collect();
    assert!(links.len() >= 4, "{links:?}");
    for link in links {
        assert!(root().join(link).exists(), "{link}");
    }
}
